# model_text: GGUF files, tokenizer, chat templates. Sees base, and of kernels/ the table formats.def only.
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)
pkg_check_modules(XXHASH REQUIRED IMPORTED_TARGET libxxhash)
consort_room(model_text
  SOURCES gguf.c file.c head.c names.c utf8.c bpe.c spm.c pretokenize.c tokenizer.c encode.c detokenize.c template.c
  SEES base LINKS PkgConfig::PCRE2 PkgConfig::XXHASH m)
