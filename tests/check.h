/* The tests' own frame: TEST(name) { ... } registers itself, CHECK... print file, line and both values and go on.
 * Small and without a library behind it, because the same tests are built as C, as C++, for 32 bits and for other
 * machines. A program of tests:  #include "check.h", tests, CHECK_MAIN()
 *   ./test_ws              runs all; prints failures and "test_ws: N passed, N failed"; exits 1 if any failed
 *   ./test_ws close        runs those whose name contains "close"
 *   ./test_ws -v           names each */
#ifndef CHECK_H
#define CHECK_H
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct check_test { const char *name; void (*run)(void); struct check_test *next; } check_test;
static check_test *check_first, **check_last = &check_first;
static int check_failures;      /* of the test that runs */

#define TEST(test_name)                                                                       \
    static void test_name(void);                                                              \
    static check_test check_test_##test_name = { #test_name, test_name, NULL };               \
    __attribute__((constructor)) static void check_register_##test_name(void)                 \
    {                                                                                         \
        *check_last = &check_test_##test_name;                                                \
        check_last = &check_test_##test_name.next;                                            \
    }                                                                                         \
    static void test_name(void)

static inline int check_failed(const char *file, int line)
{
    check_failures++;
    fprintf(stderr, "%s:%d: ", file, line);
    return 0;
}

/* Each gives 1 when it holds, so that a test can stop early: if (!CHECK(client)) return; */
#define CHECK(condition) ((condition) ? 1 : (check_failed(__FILE__, __LINE__), fprintf(stderr, "not so: %s\n", #condition), 0))
#define CHECK_EQ(got, want) check_eq((long long)(got), (long long)(want), #got, #want, __FILE__, __LINE__)
#define CHECK_U64(got, want) check_u64((unsigned long long)(got), (unsigned long long)(want), #got, __FILE__, __LINE__)
#define CHECK_TEXT(got, want) check_text(got, want, #got, __FILE__, __LINE__)          /* whole text */
#define CHECK_HAS(got, part) check_has(got, part, #got, __FILE__, __LINE__)            /* contains */
#define CHECK_BYTES(got, got_len, want, want_len) check_bytes(got, got_len, want, want_len, #got, __FILE__, __LINE__)

static inline int check_eq(long long got, long long want, const char *got_text, const char *want_text, const char *file, int line)
{
    if (got == want) return 1;
    check_failed(file, line);
    fprintf(stderr, "%s is %lld, not %lld (%s)\n", got_text, got, want, want_text);
    return 0;
}

static inline int check_u64(unsigned long long got, unsigned long long want, const char *text, const char *file, int line)
{
    if (got == want) return 1;
    check_failed(file, line);
    fprintf(stderr, "%s is %llu, not %llu\n", text, got, want);
    return 0;
}

static inline int check_text(const char *got, const char *want, const char *text, const char *file, int line)
{
    if (got && strcmp(got, want) == 0) return 1;
    check_failed(file, line);
    fprintf(stderr, "%s is \"%s\", not \"%s\"\n", text, got ? got : "(null)", want);
    return 0;
}

static inline int check_has(const char *got, const char *part, const char *text, const char *file, int line)
{
    if (got && strstr(got, part)) return 1;
    check_failed(file, line);
    fprintf(stderr, "%s is \"%s\", without \"%s\"\n", text, got ? got : "(null)", part);
    return 0;
}

static inline int check_bytes(const void *got, size_t got_len, const void *want, size_t want_len, const char *text,
                              const char *file, int line)
{
    if (got_len == want_len && (got_len == 0 || memcmp(got, want, got_len) == 0)) return 1;
    check_failed(file, line);
    fprintf(stderr, "%s is %lu bytes \"%.*s\", not %lu bytes \"%.*s\"\n", text, (unsigned long)got_len, (int)got_len,
            got_len ? (const char *)got : "", (unsigned long)want_len, (int)want_len, want_len ? (const char *)want : "");
    return 0;
}

static inline int check_main(int argc, char **argv)
{
    int passed = 0, failed = 0, verbose = argc > 1 && strcmp(argv[1], "-v") == 0;
    const char *only = argc > 1 && !verbose ? argv[1] : NULL;
    const char *program = strrchr(argv[0], '/') ? strrchr(argv[0], '/') + 1 : argv[0];
    check_test *test;
    for (test = check_first; test; test = test->next) {
        if (only && !strstr(test->name, only)) continue;
        check_failures = 0;
        if (verbose) fprintf(stderr, "%s\n", test->name);
        test->run();
        if (check_failures) { failed++; fprintf(stderr, "FAILED %s: %s\n", program, test->name); }
        else passed++;
    }
    printf("%s: %d passed, %d failed\n", program, passed, failed);
    return failed ? 1 : 0;
}

#define CHECK_MAIN() int main(int argc, char **argv) { return check_main(argc, argv); }
#endif
