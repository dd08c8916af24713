/* The frame of the fuzzers: one function a target, fuzz_one(), that gets any bytes and aborts when something does not
 * hold. Built with clang -fsanitize=fuzzer it is driven by libFuzzer; with -DFUZZ_REPLAY it is a program that runs the
 * files given to it, and all files of folders, so that any compiler can repeat the corpus and what was found.
 * tests/fuzz_test.sh builds and runs them; the first byte of an input is most often the seed of the cuts. */
#ifndef FUZZ_H
#define FUZZ_H
#ifndef GW_API
#define GW_API static           /* what a target does not call is not compiled */
#endif
#if defined __GNUC__
#pragma GCC diagnostic ignored "-Wunused-function"
#endif
#define DISCORD_GATEWAY_IMPLEMENTATION
#include "discord_gateway.h"
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void fuzz_one(const uint8_t *bytes, size_t len);

#define FUZZ_CHECK(condition)                                                                 \
    do {                                                                                      \
        if (condition) break;                                                                 \
        fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);               \
        abort();                                                                              \
    } while (0)

/* ---- chance from a seed: splitmix64 ---- */
static inline uint64_t fuzz_random(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

/* How much of `left` comes next. A seed of 0: a byte at a time; UINT64_MAX: all at once. */
#define FUZZ_WHOLE UINT64_MAX
static inline size_t fuzz_cut(uint64_t *state, size_t left)
{
    uint64_t chance;
    size_t most;
    if (*state == FUZZ_WHOLE) return left;
    if (*state == 0) return left ? 1 : 0;
    chance = fuzz_random(state);
    most = (size_t)1 << (chance & 7);
    most = 1 + (size_t)(chance >> 8) % most;
    return most < left ? most : left;
}

/* ---- a text that grows: what a run said, to be compared with what another one said ---- */
typedef struct fuzz_text { uint8_t *bytes; size_t len, cap; } fuzz_text;

static inline void fuzz_add(fuzz_text *text, const void *bytes, size_t len)
{
    if (text->len + len > text->cap) {
        text->cap = (text->len + len) * 2 + 64;
        text->bytes = (uint8_t *)realloc(text->bytes, text->cap);
        FUZZ_CHECK(text->bytes != NULL);
    }
    if (len) memcpy(text->bytes + text->len, bytes, len);
    text->len += len;
}

static inline void fuzz_add_u64(fuzz_text *text, uint64_t value)
{
    fuzz_add(text, &value, sizeof value);
}

static inline void fuzz_add_text(fuzz_text *text, const char *words)
{
    fuzz_add(text, words, strlen(words) + 1);
}

static inline int fuzz_same(const fuzz_text *one, const fuzz_text *two)
{
    return one->len == two->len && (one->len == 0 || memcmp(one->bytes, two->bytes, one->len) == 0);
}

static inline void fuzz_free(fuzz_text *text)
{
    free(text->bytes);
    memset(text, 0, sizeof *text);
}

/* Its own block, so that the sanitizer sees a step beyond its end. NULL for nothing. */
static inline char *fuzz_copy(const void *bytes, size_t len)
{
    char *copy = len ? (char *)malloc(len) : NULL;
    if (len) memcpy(copy, bytes, len);
    return copy;
}

static inline int fuzz_has(const void *bytes, size_t len, const char *part)
{
    size_t part_len = strlen(part), at;
    const char *text = (const char *)bytes;
    for (at = 0; at + part_len <= len; at++)
        if (text[at] == part[0] && memcmp(text + at, part, part_len) == 0) return 1;
    return 0;
}

/* ---- memory: nothing may be left, and sizes must be told as they were asked for ---- */
typedef struct fuzz_memory { uint64_t live_bytes, live_blocks, peak_bytes; } fuzz_memory;

static inline void *fuzz_alloc(void *user, void *old, size_t old_bytes, size_t new_bytes)
{
    fuzz_memory *memory = (fuzz_memory *)user;
    void *fresh;
    if (old) {
        FUZZ_CHECK(memory->live_blocks > 0 && memory->live_bytes >= old_bytes);
        memory->live_blocks--;
        memory->live_bytes -= old_bytes;
    }
    if (new_bytes == 0) {
        free(old);
        return NULL;
    }
    fresh = realloc(old, new_bytes);
    FUZZ_CHECK(fresh != NULL);
    memory->live_blocks++;
    memory->live_bytes += new_bytes;
    if (memory->live_bytes > memory->peak_bytes) memory->peak_bytes = memory->live_bytes;
    return fresh;
}

/* ---- who calls ---- */
#ifdef __cplusplus
extern "C"
#endif
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    fuzz_one(bytes, len);
    return 0;
}

#ifdef FUZZ_REPLAY
static unsigned long fuzz_replayed;

static void fuzz_replay_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    uint8_t *bytes = NULL;
    size_t len = 0, got, cap = 0;
    if (!file) return;
    do {
        if (cap - len < 4096) bytes = (uint8_t *)realloc(bytes, cap = cap * 2 + 65536);
        got = fread(bytes + len, 1, cap - len, file);
        len += got;
    } while (got > 0);
    fclose(file);
    bytes = (uint8_t *)realloc(bytes, len ? len : 1);   /* nothing behind its end */
    fuzz_one(bytes, len);
    free(bytes);
    fuzz_replayed++;
}

static void fuzz_replay(const char *path)
{
    DIR *folder = opendir(path);
    const struct dirent *entry;
    char name[1024];
    if (!folder) {
        fuzz_replay_file(path);
        return;
    }
    while ((entry = readdir(folder)) != NULL) {
        if (entry->d_name[0] == '.') continue;
        snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
        fuzz_replay_file(name);
    }
    closedir(folder);
}

int main(int argc, char **argv)
{
    int i;
    for (i = 1; i < argc; i++)
        if (argv[i][0] != '-') fuzz_replay(argv[i]);    /* options are libFuzzer's */
    fuzz_one((const uint8_t *)"", 0);
    printf("%lu inputs\n", fuzz_replayed);
    return 0;
}
#endif
#endif
