/* GGUF files, right and wrong. The crafted ones follow the bug classes found in other readers: counts, size arithmetic, extents,
 * type confusion. Each must be refused with the message in the table, to the letter. */
#include "base/mem.h"
#include "tests/unit/model_text/gguf_writer.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include <cmocka.h>

enum { F32 = 0, Q4_1 = 3, IQ1_M = 29, REMOVED = 4, UNASSIGNED = 99, DATA_BYTES = 128 };
static const uint64_t shape[5] = {32, 1, 1, 1, 1};

/* ---- crafted files ------------------------------------------------------------------------------------------------------- */

static void wrong_magic(gguf *g) { w_bytes(g, "GGML\3\0\0\0", 8); }
static void big_endian_magic(gguf *g) { w_bytes(g, "FUGG\0\0\0\3", 8); }
static void big_endian_version(gguf *g) { w_header(g, 0x03000000, 0, 0); }
static void old_version(gguf *g) { w_header(g, 1, 0, 0); }
static void future_version(gguf *g) { w_header(g, 4, 0, 0); }
static void empty_file(gguf *g) { (void)g; }
static void cut_header(gguf *g) { w_bytes(g, "GGUF\3\0\0\0\0\0", 10); }
static void keys_2_32(gguf *g) { w_header(g, 3, 0, UINT64_C(1) << 32); }
static void keys_2_64(gguf *g) { w_header(g, 3, 0, UINT64_MAX); }
static void more_keys_than_room(gguf *g) { w_header(g, 3, 0, 2), w_pad(g, 1, 27); }
static void tensors_2_63(gguf *g) { w_header(g, 3, UINT64_C(1) << 63, 0); }
static void tensors_2_64(gguf *g) { w_header(g, 3, UINT64_MAX, 0); }
static void more_tensors_than_room(gguf *g) { w_header(g, 3, 2, 0), w_pad(g, 1, 65); }

static void key_name_2_64(gguf *g) { w_header(g, 3, 0, 1), w_u64(g, UINT64_MAX), w_pad(g, 1, 14); }
static void key_name_past_end(gguf *g) { w_header(g, 3, 0, 1), w_u64(g, 100), w_pad(g, 1, 14); }
static void empty_key_name(gguf *g) { w_header(g, 3, 0, 1), w_text(g, ""), w_pad(g, 1, 14); }
static void zero_in_key_name(gguf *g) { w_header(g, 3, 0, 1), w_u64(g, 3), w_bytes(g, "a\0b", 3), w_pad(g, 1, 14); }
static void key_twice(gguf *g) { w_header(g, 3, 0, 2), w_key_u32(g, "a", 1), w_key_u32(g, "a", 2); }
static void unknown_value_type(gguf *g) { w_header(g, 3, 0, 1), w_key(g, "a", MODEL_N_TYPES), w_u64(g, 0); }
static void text_2_64(gguf *g) { w_header(g, 3, 0, 1), w_key(g, "a", MODEL_STRING), w_u64(g, UINT64_MAX); }
static void text_2_31(gguf *g) { w_header(g, 3, 0, 1), w_key(g, "a", MODEL_STRING), w_u64(g, UINT64_C(1) << 31); }
static void cut_number(gguf *g) { w_header(g, 3, 0, 1), w_key(g, "a", MODEL_U64), w_u32(g, 0); }
static void wrong_bool(gguf *g) { w_header(g, 3, 0, 1), w_key(g, "a", MODEL_BOOL), w_u8(g, 2); }
static void array_of_arrays(gguf *g) { w_header(g, 3, 0, 1), w_array(g, "a", MODEL_ARRAY, 1); }
static void array_of_nothing_known(gguf *g) { w_header(g, 3, 0, 1), w_array(g, "a", (model_value_type)77, 1); }
static void array_product_wraps(gguf *g) {
    w_header(g, 3, 0, 1), w_array(g, "a", MODEL_U64, (UINT64_C(1) << 61) + 1), w_u64(g, 0);
}
static void array_past_end(gguf *g) { w_header(g, 3, 0, 1), w_array(g, "a", MODEL_U32, 3), w_u64(g, 0); }
static void texts_2_61(gguf *g) { w_header(g, 3, 0, 1), w_array(g, "a", MODEL_STRING, UINT64_C(1) << 61), w_text(g, "x"); }
static void text_in_array_past_end(gguf *g) {
    w_header(g, 3, 0, 1), w_array(g, "a", MODEL_STRING, 2), w_text(g, ""), w_u64(g, 9);
}
static void wrong_bool_in_array(gguf *g) { w_header(g, 3, 0, 1), w_array(g, "a", MODEL_BOOL, 2), w_u8(g, 1), w_u8(g, 255); }

static void alignment(gguf *g, uint32_t a) { w_header(g, 3, 0, 1), w_key_u32(g, "general.alignment", a); }
static void alignment_0(gguf *g) { alignment(g, 0); }
static void alignment_4(gguf *g) { alignment(g, 4); }
static void alignment_24(gguf *g) { alignment(g, 24); }
static void alignment_2_31(gguf *g) { alignment(g, UINT32_C(1) << 31); }
static void alignment_text(gguf *g) { w_header(g, 3, 0, 1), w_key_text(g, "general.alignment", "32"); }

static void one(gguf *g, const char *name, uint32_t n_dims, const uint64_t *dims, uint32_t type, uint64_t offset) {
    w_header(g, 3, 1, 0);
    w_tensor(g, name, n_dims, dims, type, offset);
    w_pad(g, 32, DATA_BYTES);
}
static void dims_0(gguf *g) { one(g, "t", 0, shape, F32, 0); }
static void dims_5(gguf *g) { one(g, "t", 5, shape, F32, 0); }
static void dims_2_32(gguf *g) { w_header(g, 3, 1, 0), w_text(g, "t"), w_u32(g, UINT32_MAX), w_pad(g, 1, 32); }
static void dimension_0(gguf *g) { one(g, "t", 2, (uint64_t[]){32, 0}, F32, 0); }
static void elements_wrap(gguf *g) { one(g, "t", 2, (uint64_t[]){UINT64_C(1) << 33, UINT64_C(1) << 33}, F32, 0); }
static void elements_2_63(gguf *g) { one(g, "t", 1, (uint64_t[]){UINT64_C(1) << 63}, F32, 0); }
static void bytes_wrap(gguf *g) { one(g, "t", 1, (uint64_t[]){UINT64_C(1) << 62}, F32, 0); }
static void half_a_block(gguf *g) { one(g, "t", 2, (uint64_t[]){48, 2}, Q4_1, 0); }
static void unsupported_type(gguf *g) { one(g, "t", 1, shape, IQ1_M, 0); }
static void removed_type(gguf *g) { one(g, "t", 1, shape, REMOVED, 0); }
static void unassigned_type(gguf *g) { one(g, "t", 1, shape, UNASSIGNED, 0); }
static void misaligned(gguf *g) { one(g, "t", 1, shape, F32, 8); }
static void offset_past_end(gguf *g) { one(g, "t", 1, shape, F32, 32); }
static void offset_wraps(gguf *g) { one(g, "t", 1, shape, F32, UINT64_MAX - 31); }
static void end_wraps(gguf *g) { one(g, "t", 1, shape, F32, UINT64_MAX - 127); }
static void long_tensor_name(gguf *g) {
    one(g, "0123456789012345678901234567890123456789012345678901234567890123x", 1, shape, F32, 0);
}
static void no_data(gguf *g) { w_header(g, 3, 1, 0), w_tensor(g, "t", 1, shape, F32, 0); }
static void cut_tensor(gguf *g) { w_header(g, 3, 1, 0), w_text(g, "tensor"), w_u32(g, 1), w_u64(g, 32), w_u64(g, 0); }
static void control_bytes_in_name(gguf *g) { one(g, "t\x1b[31m", 1, shape, F32, 8); }

static void two(gguf *g, const char *second, uint64_t offset) {
    w_header(g, 3, 2, 0);
    w_tensor(g, "a", 1, (uint64_t[]){16}, F32, 0);
    w_tensor(g, second, 1, (uint64_t[]){16}, F32, offset);
    w_pad(g, 32, DATA_BYTES);
}
static void overlap(gguf *g) { two(g, "b", 32); }
static void same_place(gguf *g) { two(g, "b", 0); }
static void tensor_twice(gguf *g) { two(g, "a", 64); }

typedef struct {
    const char *name; /* of the test, a sentence */
    void (*write)(gguf *g);
    st_code code;
    const char *message; /* behind "x.gguf: " */
} crafted;

static const crafted crafted_files[] = {
    {"an empty file is refused", empty_file, ST_ERR_FORMAT,
     "header, byte 0: expected 4 bytes of magic, found 0 before the end of the file"},
    {"another magic is refused", wrong_magic, ST_ERR_FORMAT, "header, byte 0: expected the magic 'GGUF', found 47 47 4d 4c"},
    {"a big-endian magic is named", big_endian_magic, ST_ERR_FORMAT,
     "header, byte 0: expected the magic 'GGUF', found 46 55 47 47 (a big-endian file)"},
    {"a big-endian version is named", big_endian_version, ST_ERR_UNSUPPORTED,
     "header, byte 4: expected GGUF version 2 or 3, found 50331648 (a big-endian file)"},
    {"version 1 is refused", old_version, ST_ERR_UNSUPPORTED, "header, byte 4: expected GGUF version 2 or 3, found 1"},
    {"version 4 is refused", future_version, ST_ERR_UNSUPPORTED, "header, byte 4: expected GGUF version 2 or 3, found 4"},
    {"a header that is cut is refused", cut_header, ST_ERR_FORMAT,
     "header, byte 4: expected 20 bytes of version and counts, found 6 before the end of the file"},
    {"2^32 keys are refused", keys_2_32, ST_ERR_FORMAT,
     "header, byte 16: expected at most 65536 keys and room for them in 0 bytes, found 4294967296"},
    {"2^64 - 1 keys are refused", keys_2_64, ST_ERR_FORMAT,
     "header, byte 16: expected at most 65536 keys and room for them in 0 bytes, found 18446744073709551615"},
    {"more keys than fit the file are refused", more_keys_than_room, ST_ERR_FORMAT,
     "header, byte 16: expected at most 65536 keys and room for them in 27 bytes, found 2"},
    {"2^63 tensors are refused", tensors_2_63, ST_ERR_FORMAT,
     "header, byte 8: expected at most 65536 tensors and room for them in 0 bytes, found 9223372036854775808"},
    {"2^64 - 1 tensors are refused", tensors_2_64, ST_ERR_FORMAT,
     "header, byte 8: expected at most 65536 tensors and room for them in 0 bytes, found 18446744073709551615"},
    {"more tensors than fit the file are refused", more_tensors_than_room, ST_ERR_FORMAT,
     "header, byte 8: expected at most 65536 tensors and room for them in 65 bytes, found 2"},
    {"a key name of 2^64 - 1 bytes is refused", key_name_2_64, ST_ERR_FORMAT,
     "key 0, byte 24: expected a name of at most 65535 bytes, found 18446744073709551615"},
    {"a key name past the end is refused", key_name_past_end, ST_ERR_FORMAT,
     "key 0, byte 32: expected 100 bytes of name, found 14 before the end of the file"},
    {"an empty key name is refused", empty_key_name, ST_ERR_FORMAT, "key 0, byte 24: expected a name, found an empty one"},
    {"a key name with a zero byte is refused", zero_in_key_name, ST_ERR_FORMAT,
     "key 0, byte 24: expected a name, found a zero byte in it"},
    {"a key given twice is refused", key_twice, ST_ERR_FORMAT,
     "key 'a', byte 41: expected each name once, found it as key 0 and 1"},
    {"an unknown value type is refused", unknown_value_type, ST_ERR_FORMAT,
     "key 'a', byte 33: expected a value type below 13, found 13"},
    {"a text of 2^64 - 1 bytes is refused", text_2_64, ST_ERR_FORMAT,
     "key 'a', byte 45: expected 18446744073709551615 bytes of text, found 0 before the end of the file"},
    {"a text of 2^31 bytes is refused", text_2_31, ST_ERR_FORMAT,
     "key 'a', byte 45: expected 2147483648 bytes of text, found 0 before the end of the file"},
    {"a number that is cut is refused", cut_number, ST_ERR_FORMAT,
     "key 'a', byte 37: expected 8 bytes of u64, found 4 before the end of the file"},
    {"a bool of 2 is refused", wrong_bool, ST_ERR_FORMAT, "key 'a', byte 37: expected a bool, 0 or 1, found 2"},
    {"an array of arrays is refused", array_of_arrays, ST_ERR_UNSUPPORTED,
     "key 'a', byte 37: expected an array of texts or numbers, found an array of arrays"},
    {"an array of an unknown type is refused", array_of_nothing_known, ST_ERR_FORMAT,
     "key 'a', byte 37: expected a value type below 13, found 77"},
    {"an array whose size wraps around is refused", array_product_wraps, ST_ERR_FORMAT,
     "key 'a', byte 49: expected 18446744073709551615 bytes of u64, found 8 before the end of the file"},
    {"an array past the end is refused", array_past_end, ST_ERR_FORMAT,
     "key 'a', byte 49: expected 12 bytes of u32, found 8 before the end of the file"},
    {"an array of 2^61 texts is refused", texts_2_61, ST_ERR_FORMAT,
     "key 'a', byte 49: expected 2305843009213693952 texts, found room for 1 before the end of the file"},
    {"a text of an array past the end is refused", text_in_array_past_end, ST_ERR_FORMAT,
     "key 'a', byte 65: expected 9 bytes of text, found 0 before the end of the file"},
    {"a wrong bool in an array is refused", wrong_bool_in_array, ST_ERR_FORMAT,
     "key 'a', byte 50: expected a bool, 0 or 1, found 255"},
    {"an alignment of 0 is refused", alignment_0, ST_ERR_FORMAT,
     "key 'general.alignment', byte 53: expected 8 to 1048576, found 0"},
    {"an alignment of 4 is refused", alignment_4, ST_ERR_FORMAT,
     "key 'general.alignment', byte 53: expected 8 to 1048576, found 4"},
    {"an alignment of 24 is refused", alignment_24, ST_ERR_FORMAT,
     "key 'general.alignment', byte 53: expected a power of two, found 24"},
    {"an alignment of 2^31 is refused", alignment_2_31, ST_ERR_FORMAT,
     "key 'general.alignment', byte 53: expected 8 to 1048576, found 2147483648"},
    {"an alignment that is text is refused", alignment_text, ST_ERR_FORMAT,
     "key 'general.alignment', byte 53: expected a whole number, found text"},
    {"a tensor of no dimensions is refused", dims_0, ST_ERR_FORMAT, "tensor 't', byte 33: expected 1 to 4 dimensions, found 0"},
    {"a tensor of 5 dimensions is refused", dims_5, ST_ERR_FORMAT, "tensor 't', byte 33: expected 1 to 4 dimensions, found 5"},
    {"a tensor of 2^32 - 1 dimensions is refused", dims_2_32, ST_ERR_FORMAT,
     "tensor 't', byte 33: expected 1 to 4 dimensions, found 4294967295"},
    {"a dimension of 0 is refused", dimension_0, ST_ERR_FORMAT, "tensor 't', byte 45: expected dimension 1 above 0, found 0"},
    {"elements that wrap around are refused", elements_wrap, ST_ERR_FORMAT,
     "tensor 't', byte 45: expected fewer than 2^63 elements, found dimension 1 of 8589934592"},
    {"2^63 elements are refused", elements_2_63, ST_ERR_FORMAT,
     "tensor 't', byte 37: expected fewer than 2^63 elements, found dimension 0 of 9223372036854775808"},
    {"a size that wraps around is refused", bytes_wrap, ST_ERR_FORMAT,
     "tensor 't', byte 45: expected a size below 2^64 bytes, found 4611686018427387904 elements of F32"},
    {"rows of broken blocks are refused", half_a_block, ST_ERR_FORMAT,
     "tensor 't', byte 53: expected rows in whole blocks of 32 for Q4_1, found rows of 48"},
    {"a tensor type that we lack is named", unsupported_type, ST_ERR_UNSUPPORTED,
     "tensor 't', byte 45: expected a tensor type that Consort has, found 29 (IQ1_M)"},
    {"a removed tensor type is refused", removed_type, ST_ERR_FORMAT,
     "tensor 't', byte 45: expected a tensor type that Consort has, found 4 (unknown)"},
    {"an unassigned tensor type is refused", unassigned_type, ST_ERR_FORMAT,
     "tensor 't', byte 45: expected a tensor type that Consort has, found 99 (unknown)"},
    {"a misaligned tensor is refused", misaligned, ST_ERR_FORMAT,
     "tensor 't', byte 49: expected an offset that is a multiple of 32, found 8"},
    {"a tensor past the end is refused", offset_past_end, ST_ERR_FORMAT,
     "tensor 't', byte 64: expected 128 bytes at offset 32 of the data, found a file of 192 bytes"},
    {"an offset that wraps around is refused", offset_wraps, ST_ERR_FORMAT,
     "tensor 't', byte 64: expected 128 bytes at offset 18446744073709551584 of the data, found a file of 192 bytes"},
    {"an end that wraps around is refused", end_wraps, ST_ERR_FORMAT,
     "tensor 't', byte 64: expected 128 bytes at offset 18446744073709551488 of the data, found a file of 192 bytes"},
    {"a file cut before its data is refused", no_data, ST_ERR_FORMAT,
     "tensor 't', byte 64: expected 128 bytes at offset 0 of the data, found a file of 57 bytes"},
    {"a tensor info that is cut is refused", cut_tensor, ST_ERR_FORMAT,
     "tensor 'tensor', byte 50: expected 12 bytes of type and offset, found 8 before the end of the file"},
    {"a tensor name of 65 bytes is refused", long_tensor_name, ST_ERR_FORMAT,
     "tensor 0, byte 24: expected a name of at most 64 bytes, found 65"},
    {"control bytes of a name do not reach the message", control_bytes_in_name, ST_ERR_FORMAT,
     "tensor 't?[31m', byte 54: expected an offset that is a multiple of 32, found 8"},
    {"tensors that overlap are refused", overlap, ST_ERR_FORMAT,
     "tensor 'b', byte 128: expected its data behind that of 'a', which ends at byte 160"},
    {"tensors in the same place are refused", same_place, ST_ERR_FORMAT, NULL}, /* which of the two is named is open */
    {"a tensor given twice is refused", tensor_twice, ST_ERR_FORMAT,
     "tensor 'a', byte 57: expected each name once, found it as tensor 0 and 1"},
};

static void is_refused(void **state) {
    const crafted *c = *state;
    gguf g = {.n = 0};
    model_file *f = NULL;
    st_error e = {0};
    c->write(&g);
    assert_int_equal(model_file_over("x.gguf", g.bytes, g.n, &f, &e), c->code);
    assert_null(f);
    assert_int_equal(e.code, c->code);
    assert_memory_equal(e.message, "x.gguf: ", 8);
    if (c->message) assert_string_equal(e.message + 8, c->message);
    assert_int_equal(model_file_over("x.gguf", g.bytes, g.n, &f, NULL), c->code); /* without an error to fill */
}

/* ---- good files ---------------------------------------------------------------------------------------------------------- */

static model_file *opened(const gguf *g) {
    model_file *f = NULL;
    st_error e = {0};
    if (model_file_over("x.gguf", g->bytes, g->n, &f, &e)) fail_msg("%s", e.message);
    return f;
}

static void write_good(gguf *g, uint32_t version) {
    w_header(g, version, 2, 12);
    w_key(g, "u8", MODEL_U8), w_u8(g, 200);
    w_key(g, "i8", MODEL_I8), w_u8(g, 0xff);
    w_key(g, "u16", MODEL_U16), w_bytes(g, "\x34\x12", 2);
    w_key_u32(g, "u32", UINT32_MAX);
    w_key(g, "i32", MODEL_I32), w_u32(g, 7);
    w_key(g, "u64", MODEL_U64), w_u64(g, UINT64_MAX);
    w_key(g, "f32", MODEL_F32), w_bytes(g, &(float){0.5f}, 4);
    w_key(g, "nan", MODEL_F64), w_u64(g, UINT64_C(0x7ff8000000000000));
    w_key(g, "yes", MODEL_BOOL), w_u8(g, 1);
    w_key_text(g, "text", "Grüße");
    w_array(g, "texts", MODEL_STRING, 3), w_text(g, "a"), w_text(g, ""), w_text(g, "bc");
    w_array(g, "i32s", MODEL_I32, 2), w_u32(g, 1), w_u32(g, 2);
    w_tensor(g, "second", 2, (uint64_t[]){32, 2}, Q4_1, 128);
    w_tensor(g, "first", 1, shape, F32, 0);
    w_pad(g, 32, 128 + 2 * 20);
}

static void a_good_file_of_both_versions_gives_its_values(void **state) {
    (void)state;
    for (uint32_t version = 2; version <= 3; version++) {
        gguf g = {.n = 0};
        write_good(&g, version);
        model_file *f = opened(&g);
        uint64_t u, n;
        double d;
        bool b;
        model_string s;
        assert_int_equal(model_file_version(f), version);
        assert_int_equal(model_file_size(f), g.n);
        assert_int_equal(model_file_n_keys(f), 12);
        assert_true(!model_file_u64(f, "u8", 0, 255, &u, NULL) && u == 200);
        assert_true(!model_file_u64(f, "u16", 0, UINT64_MAX, &u, NULL) && u == 0x1234);
        assert_true(!model_file_u64(f, "u32", UINT32_MAX, UINT32_MAX, &u, NULL) && u == UINT32_MAX);
        assert_true(!model_file_u64(f, "i32", 0, UINT64_MAX, &u, NULL) && u == 7);
        assert_true(!model_file_u64(f, "u64", 0, UINT64_MAX, &u, NULL) && u == UINT64_MAX);
        assert_true(!model_file_f64(f, "f32", &d, NULL) && d == 0.5);
        assert_true(!model_file_bool(f, "yes", &b, NULL) && b);
        assert_true(!model_file_string(f, "text", &s, NULL) && s.size == 7 && !memcmp(s.bytes, "Grüße", 7));
        assert_true(!model_file_array(f, "texts", MODEL_STRING, NULL, &n, NULL) && n == 3);
        assert_int_equal(model_file_string_at(f, "texts", 1).size, 0);
        assert_memory_equal(model_file_string_at(f, "texts", 2).bytes, "bc", 2);
        const void *bytes;
        assert_true(!model_file_array(f, "i32s", MODEL_I32, &bytes, &n, NULL) && n == 2);
        assert_memory_equal(bytes, "\1\0\0\0\2\0\0\0", 8);
        model_file_close(f);
    }
}

static void tensors_are_found_by_name_in_any_order_of_place(void **state) {
    (void)state;
    gguf g = {.n = 0};
    write_good(&g, 3);
    model_file *f = opened(&g);
    const model_tensor *first = model_file_tensor(f, "first"), *second = model_file_tensor(f, "second");
    assert_null(model_file_tensor(f, "third"));
    assert_int_equal(model_file_n_tensors(f), 2);
    assert_ptr_equal(model_file_tensor_at(f, 0), second);
    assert_int_equal(second->n_dims, 2);
    assert_int_equal(second->dims[0], 32);
    assert_int_equal(second->dims[1], 2);
    assert_int_equal(second->dims[2], 1);
    assert_int_equal(second->size_bytes, 40);
    assert_string_equal(model_format_name(second->format), "Q4_1");
    assert_int_equal((const uint8_t *)second->bytes - (const uint8_t *)first->bytes, 128);
    assert_ptr_equal((const uint8_t *)second->bytes + 40, g.bytes + g.n);
    model_file_close(f);
}

static void a_wrong_type_or_range_is_told_with_its_place(void **state) {
    (void)state;
    gguf g = {.n = 0};
    write_good(&g, 3);
    model_file *f = opened(&g);
    st_error e;
    uint64_t u, n;
    double d;
    bool b;
    model_string s;
    assert_int_equal(model_file_u64(f, "none", 0, 1, &u, &e), ST_ERR_NOT_FOUND);
    assert_string_equal(e.message, "x.gguf: key 'none' is missing");
    assert_int_equal(model_file_u64(f, "u8", 1, 199, &u, &e), ST_ERR_FORMAT);
    assert_string_equal(e.message, "x.gguf: key 'u8', byte 38: expected 1 to 199, found 200");
    assert_int_equal(model_file_u64(f, "i8", 0, UINT64_MAX, &u, &e), ST_ERR_FORMAT);
    assert_string_equal(e.message, "x.gguf: key 'i8', byte 53: expected 0 to 18446744073709551615, found -1");
    assert_int_equal(model_file_u64(f, "text", 0, 1, &u, &e), ST_ERR_FORMAT);
    assert_non_null(strstr(e.message, "expected a whole number, found text"));
    assert_int_equal(model_file_f64(f, "u32", &d, &e), ST_ERR_FORMAT);
    assert_non_null(strstr(e.message, "expected f32 or f64, found u32"));
    assert_int_equal(model_file_f64(f, "nan", &d, &e), ST_ERR_FORMAT);
    assert_non_null(strstr(e.message, "expected a finite number, found nan"));
    assert_int_equal(model_file_bool(f, "u8", &b, &e), ST_ERR_FORMAT);
    assert_int_equal(model_file_string(f, "texts", &s, &e), ST_ERR_FORMAT);
    assert_non_null(strstr(e.message, "expected text, found an array of text"));
    assert_int_equal(model_file_array(f, "i32s", MODEL_STRING, NULL, &n, &e), ST_ERR_FORMAT);
    assert_non_null(strstr(e.message, "expected an array of text, found an array of i32"));
    assert_int_equal(model_file_array(f, "texts", MODEL_I32, NULL, &n, &e), ST_ERR_FORMAT);
    assert_int_equal(model_file_array(f, "text", MODEL_STRING, NULL, &n, &e), ST_ERR_FORMAT);
    model_file_close(f);
}

static void every_shorter_file_is_refused(void **state) {
    (void)state;
    gguf g = {.n = 0};
    write_good(&g, 3);
    for (size_t n = 0; n < g.n; n++) {
        uint8_t *exact = n ? malloc(n) : NULL; /* so that a sanitizer sees any read behind the end */
        if (n) memcpy(exact, g.bytes, n);
        model_file *f = NULL;
        st_error e = {0};
        assert_int_equal(model_file_over("x.gguf", exact, n, &f, &e), ST_ERR_FORMAT);
        free(exact);
    }
}

static void names_and_dimensions_at_their_limits_are_taken(void **state) {
    (void)state;
    gguf g = {.n = 0};
    char name[65] = {0};
    memset(name, 'n', 64);
    w_header(&g, 3, 1, 1);
    w_key_u32(&g, "general.alignment", 8);
    w_tensor(&g, name, 4, shape, F32, 0);
    w_pad(&g, 8, 128);
    model_file *f = opened(&g);
    assert_non_null(model_file_tensor(f, name));
    model_file_close(f);
}

static void counts_are_limited_even_where_the_file_has_room(void **state) {
    (void)state;
    const size_t size = 24 + 65537 * (size_t)33;
    gguf g = {.n = 0};
    uint8_t *bytes = calloc(1, size);
    st_error e;
    model_file *f = NULL;
    assert_non_null(bytes);
    w_header(&g, 3, 0, 65537);
    memcpy(bytes, g.bytes, g.n);
    assert_int_equal(model_file_over("x.gguf", bytes, size, &f, &e), ST_ERR_FORMAT);
    assert_string_equal(e.message,
                        "x.gguf: header, byte 16: expected at most 65536 keys and room for them in 2162721 bytes, found 65537");
    bytes[16] = 0, bytes[18] = 1; /* 65536 */
    assert_int_equal(model_file_over("x.gguf", bytes, size, &f, &e), ST_ERR_FORMAT);
    assert_string_equal(e.message, "x.gguf: key 0, byte 24: expected a name, found an empty one");
    memset(bytes + 8, 0, 16);
    bytes[8] = 1, bytes[10] = 1; /* 65537 tensors */
    assert_int_equal(model_file_over("x.gguf", bytes, size, &f, &e), ST_ERR_FORMAT);
    assert_string_equal(e.message,
                        "x.gguf: header, byte 8: expected at most 65536 tensors and room for them in 2162721 bytes, found 65537");
    free(bytes);
}

/* A table for 2000 names has 4096 slots; these names all want the first 64. */
static void names_made_to_collide_are_refused(void **state) {
    (void)state;
    gguf g = {.n = 0};
    model_file *f = NULL;
    st_error e;
    char name[16];
    w_header(&g, 3, 0, 2000);
    for (unsigned i = 0, n = 0; n < 2000; i++) {
        snprintf(name, sizeof name, "%x", i);
        if ((XXH3_64bits(name, strlen(name)) & 4095) >= 64) continue;
        w_key(&g, name, MODEL_U8), w_u8(&g, 0);
        n++;
    }
    assert_int_equal(model_file_over("x.gguf", g.bytes, g.n, &f, &e), ST_ERR_FORMAT);
    assert_non_null(strstr(e.message, "expected ordinary names, found more than 1024 that collide"));
}

static void the_vocabulary_hash_knows_each_part_and_nothing_else(void **state) {
    (void)state;
    const wv_options variants[] = {{0},           {.pre = "gpt-2"},  {.last_token = "zz"}, {.last_merge = "a b"},
                                   {.end_id = 5}, {.first_type = 4}, {.model = "llama"}};
    enum { N = sizeof variants / sizeof *variants };
    uint8_t hash[N + 1][32];
    for (int i = 0; i <= N; i++) {
        gguf g = {.n = 0};
        w_vocabulary(&g, i < N ? &variants[i] : &(wv_options){.chat_template = "other"});
        model_file *f = opened(&g);
        assert_int_equal(model_file_vocabulary_hash(f, hash[i]), ST_OK);
        model_file_close(f);
    }
    for (int i = 0; i < N; i++)
        for (int j = 0; j < i; j++) assert_memory_not_equal(hash[i], hash[j], 32);
    assert_memory_equal(hash[0], hash[N], 32);
}

static void a_file_on_disk_is_mapped_and_hashed(void **state) {
    (void)state;
    gguf g = {.n = 0};
    char path[] = "/tmp/consort-test-gguf-XXXXXX";
    int fd = mkstemp(path);
    write_good(&g, 3);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, g.bytes, g.n), g.n);
    close(fd);
    model_file *f = NULL;
    st_error e;
    uint8_t hash[2][32];
    assert_int_equal(model_file_open(path, &f, &e), ST_OK);
    unlink(path);
    assert_string_equal(model_file_path(f), path);
    assert_non_null(model_file_tensor(f, "first"));
    assert_int_equal(model_file_hash(f, hash[0]), ST_OK);
    model_file_close(f);
    f = opened(&g);
    assert_int_equal(model_file_hash(f, hash[1]), ST_OK);
    assert_memory_equal(hash[0], hash[1], 32);
    model_file_close(f);
}

static void what_is_no_file_is_told(void **state) {
    (void)state;
    model_file *f = NULL;
    st_error e;
    assert_int_equal(model_file_open("/nowhere/x.gguf", &f, &e), ST_ERR_IO);
    assert_string_equal(e.message, "/nowhere/x.gguf: No such file or directory");
    assert_int_equal(model_file_open("/tmp", &f, &e), ST_ERR_IO);
    assert_string_equal(e.message, "/tmp: expected a regular file");
    model_file_close(NULL);
}

static void each_failed_allocation_is_told_and_leaks_nothing(void **state) {
    (void)state;
    gguf g = {.n = 0};
    write_good(&g, 3);
    st_code code = ST_FATAL_MEMORY;
    uint64_t n = 0;
    while (code) {
        model_file *f = NULL;
        st_error e = {0};
        mem_fail_at(++n);
        code = model_file_over("x.gguf", g.bytes, g.n, &f, &e);
        mem_fail_at(0);
        if (code) assert_int_equal(code, ST_FATAL_MEMORY);
        if (code) assert_string_equal(e.message, "x.gguf: out of memory");
        model_file_close(f);
    }
    assert_true(n > 8);
}

int main(void) {
    static const struct CMUnitTest good[] = {
        cmocka_unit_test(a_good_file_of_both_versions_gives_its_values),
        cmocka_unit_test(tensors_are_found_by_name_in_any_order_of_place),
        cmocka_unit_test(a_wrong_type_or_range_is_told_with_its_place),
        cmocka_unit_test(every_shorter_file_is_refused),
        cmocka_unit_test(names_and_dimensions_at_their_limits_are_taken),
        cmocka_unit_test(counts_are_limited_even_where_the_file_has_room),
        cmocka_unit_test(names_made_to_collide_are_refused),
        cmocka_unit_test(the_vocabulary_hash_knows_each_part_and_nothing_else),
        cmocka_unit_test(a_file_on_disk_is_mapped_and_hashed),
        cmocka_unit_test(what_is_no_file_is_told),
        cmocka_unit_test(each_failed_allocation_is_told_and_leaks_nothing),
    };
    enum { N_CRAFTED = sizeof crafted_files / sizeof *crafted_files, N_GOOD = sizeof good / sizeof *good };
    struct CMUnitTest tests[N_CRAFTED + N_GOOD];
    memcpy(tests, good, sizeof good);
    for (int i = 0; i < N_CRAFTED; i++)
        tests[N_GOOD + i] =
            (struct CMUnitTest){crafted_files[i].name, is_refused, NULL, NULL, (void *)(uintptr_t)&crafted_files[i]};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
