/* reference_page: a page of docs/ with parts that are made from the code, each between two marks. A test makes a part and
 * compares; with CONSORT_REWRITE=1 in the environment it writes it instead. */
#ifndef CONSORT_TESTS_REFERENCE_PAGE_H
#define CONSORT_TESTS_REFERENCE_PAGE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAGE_BEGIN "<!-- made from the table in the code; do not edit -->\n"
#define PAGE_END   "<!-- end -->\n"

static inline char *page_read(const char *path) {
    FILE *f = fopen(path, "rb");
    char *text = f ? calloc(1, 1 << 18) : NULL;
    if (text && fread(text, 1, (1 << 18) - 1, f) == 0) text[0] = 0;
    if (f) fclose(f);
    return text;
}

/* Behind the line `mark`. NULL: `made` is what stands there (or has been written); else what to do. */
static inline const char *page_compare_behind(const char *path, const char *mark, const char *made) {
    const char *wrong = "no page, or no marks in it";
    char *text = page_read(path), *begin = text ? strstr(text, mark) : NULL, *end = begin ? strstr(begin, PAGE_END) : NULL;
    if (end) {
        begin += strlen(mark);
        wrong = strlen(made) == (size_t)(end - begin) && !memcmp(begin, made, strlen(made))
                    ? NULL
                    : "the page is out of date: run this test with CONSORT_REWRITE=1 and commit it";
        FILE *f = wrong && getenv("CONSORT_REWRITE") ? fopen(path, "wb") : NULL;
        if (f) {
            fprintf(f, "%.*s%s%s", (int)(begin - text), text, made, end);
            wrong = fclose(f) ? "cannot write the page" : NULL;
        }
    }
    free(text);
    return wrong;
}

static inline const char *page_compare(const char *path, const char *made) { return page_compare_behind(path, PAGE_BEGIN, made); }

#endif
