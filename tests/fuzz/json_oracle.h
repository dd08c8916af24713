/* The other reader of JSON: jansson (Debian: libjansson-dev), strict, written by others. Without it a target still
 * compares our own ways with each other. What jansson refuses and RFC 8259 allows is told apart by its error code:
 * numbers that do not fit, half a surrogate pair, a 0 in a key, more than 2,048 levels. It swallows a 0 byte behind a
 * number; no JSON has one, so such a text is not shown to it. */
#ifndef JSON_ORACLE_H
#define JSON_ORACLE_H
#if defined __has_include
#if __has_include(<jansson.h>) && !defined FUZZ_NO_ORACLE
#define FUZZ_ORACLE 1
#include <jansson.h>
#endif
#endif

#ifdef FUZZ_ORACLE
enum verdict { INVALID, VALID, OUT_OF_REACH };

/* The tree of a text; NULL with INVALID, or with OUT_OF_REACH where jansson knows less than the RFC. */
static json_t *oracle_load(const char *text, size_t len, size_t flags, enum verdict *verdict)
{
    json_error_t error;
    json_t *tree;
    *verdict = INVALID;
    if (len == 0 || memchr(text, 0, len)) return NULL;
    tree = json_loadb(text, len, flags | JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);
    if (tree) *verdict = VALID;
    else switch (json_error_code(&error)) {
    case json_error_numeric_overflow: case json_error_stack_overflow:
    case json_error_null_byte_in_key: case json_error_null_character:
    case json_error_duplicate_key: *verdict = OUT_OF_REACH; break;
    default:
        if (strstr(error.text, "invalid Unicode '\\u")) *verdict = OUT_OF_REACH;
    }
    return tree;
}
#endif
#endif
