# cmake -DIN=x.proto -DOUT=y.proto -P lengths.cmake: a copy for protobuf-c in which each `string` field is `bytes`. The wire is the
# same; but protobuf-c hands out strings without their length, so that text behind an embedded NUL would vanish unseen.
file(READ ${IN} text)
string(REGEX REPLACE "(^|[\n ])string ([a-z_]+ = [0-9]+;)" "\\1bytes \\2" text "${text}")
file(WRITE ${OUT} "${text}")
