#!/bin/sh
# check_pure.sh NM LIBRARY...: the libraries call nothing but each other, pure functions of base, and functions on memory and text.
# No clock, socket, random number, allocation or file can hide behind these. Compilers' own helpers (sanitizers, stack
# protector) are let through; st_abort is INVARIANT.
set -eu
nm=$1
shift
allowed='st_fail st_prefix st_text st_abort memcmp memcpy memmove memset snprintf strcmp strcspn strlen strncmp
    cursor_take cursor_u32 cursor_u64 fmath_expf fmath_logf fmath_exp fmath_log philox sha256_of'
# and what asks the processor for its instruction set
helpers='^(__cpu_model|__cpu_indicator_init|__asan_|__ubsan_|__tsan_|__sanitizer_|__stack_chk_fail|_GLOBAL_OFFSET_TABLE_|__(memcpy|memmove|memset|snprintf)_chk)'

undefined=$("$nm" --undefined-only "$@" | awk 'NF == 2 && $1 ~ /^[Uwv]$/ { print $2 }' | sort -u)
defined=$("$nm" --defined-only "$@" | awk 'NF == 3 && $2 ~ /^[A-Z]$/ { print $3 }' | sort -u)
[ -n "$defined" ] || { echo "check_pure: no symbols in $*" >&2; exit 1; }

bad=$(printf '%s\n' "$undefined" | grep -Ev "$helpers" | while read -r symbol; do
    printf '%s\n' $allowed "$defined" | grep -Fqx "$symbol" || printf '%s ' "$symbol"
done)
if [ -n "$bad" ]; then
    echo "check_pure: not pure: $bad" >&2
    exit 1
fi
