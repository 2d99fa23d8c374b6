# cmake -DIN=file -DOUT=file.c -P embed.cmake: the bytes of IN as a C array.
file(READ ${IN} hex HEX)
string(LENGTH "${hex}" n)
math(EXPR n "${n} / 2")
string(REGEX REPLACE "(..)" "0x\\1," bytes "${hex}")
string(REGEX REPLACE "(................................................................................)" "\\1\n    " bytes "${bytes}")
file(WRITE ${OUT} "#include \"proto/proto.h\"

static const uint8_t set[${n}] = {
    ${bytes}};

const uint8_t *proto_descriptor_set(size_t *n) {
    *n = sizeof set;
    return set;
}
")
