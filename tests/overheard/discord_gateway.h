/* The header as every test sees it in a build with `-iquote tests/overheard`: what the library writes is overheard, and
 * searched for the tokens that gw_open() was given, in every test of the suite and not only in those about secrets.
 * Heard: the log and the trace, messages and names of events, bodies of notices, gw_why(), the numbers as text and the
 * saved sessions; of each client that is closed, once more all of the last three.
 * A piece of a token is shown, and ends the program. At its end a program adds a line to $GW_OVERHEARD/NAME, if that is
 * set: texts, bytes, tokens; tests/secrets_check.sh reads them. */
#include "../../discord_gateway.h"
#if defined DISCORD_GATEWAY_IMPLEMENTATION && !defined OVERHEARD_H
#define OVERHEARD_H
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OVERHEARD_PIECE = 10, OVERHEARD_LEAST = 16, OVERHEARD_PARTS = 64 };     /* characters, characters, of all tokens */

typedef void (*overheard_log)(void *user, uint32_t level, int32_t shard, const char *text);
typedef struct overheard_hook { void *user; overheard_log log; struct overheard_hook *next; } overheard_hook;

static struct {
    char parts[OVERHEARD_PARTS][80];            /* of tokens, between their dots */
    uint32_t part_count;
    unsigned char begins[65536];                /* two characters: some piece begins so */
    unsigned long long texts, bytes;
    overheard_hook *hooks;                      /* whose log it is; one for each `user` */
} overheard;

static inline void overheard_end(void)
{
    const char *folder = getenv("GW_OVERHEARD"), *name = strrchr(__BASE_FILE__, '/');
    char path[600];
    FILE *file;
    if (!folder) return;
    name = name ? name + 1 : __BASE_FILE__;
    snprintf(path, sizeof path, "%.500s/%.60s", folder, name);
    if ((file = fopen(path, "a")) == NULL) return;
    fprintf(file, "%s %llu %llu %u\n", name, overheard.texts, overheard.bytes, (unsigned)overheard.part_count);
    fclose(file);
}

static inline uint32_t overheard_pair(const char *text)
{
    return (uint32_t)((unsigned char)text[0] << 8 | (unsigned char)text[1]);
}

static inline void overheard_learn_part(const char *part, size_t len)
{
    uint32_t i;
    size_t at;
    for (i = 0; i < overheard.part_count; i++)
        if (strlen(overheard.parts[i]) == len && memcmp(overheard.parts[i], part, len) == 0) return;
    if (len < OVERHEARD_LEAST || len >= sizeof overheard.parts[0] || i == OVERHEARD_PARTS) return;
    if (i == 0) atexit(overheard_end);
    memcpy(overheard.parts[i], part, len);
    overheard.part_count++;
    for (at = 0; at + OVERHEARD_PIECE <= len; at++) overheard.begins[overheard_pair(part + at)] = 1;
}

static inline void overheard_learn(const char *token)
{
    size_t len;
    for (; token && *token; token += len + (token[len] != 0)) {
        len = strcspn(token, ". \t\r\n");
        overheard_learn_part(token, len);
    }
}

static inline int overheard_is_piece(const char *text)
{
    uint32_t i;
    size_t at;
    for (i = 0; i < overheard.part_count; i++)
        for (at = 0; overheard.parts[i][at + OVERHEARD_PIECE - 1]; at++)
            if (memcmp(overheard.parts[i] + at, text, OVERHEARD_PIECE) == 0) return 1;
    return 0;
}

static inline void overheard_text(const char *where, const char *text, size_t len)
{
    size_t at;
    if (!text) return;
    overheard.texts++;
    overheard.bytes += len;
    for (at = 0; at + OVERHEARD_PIECE <= len; at++) {
        if (!overheard.begins[overheard_pair(text + at)] || !overheard_is_piece(text + at)) continue;
        fprintf(stderr, "overheard: a piece of the token is in %s: %.*s\n", where, (int)GW__MIN(len, 2000u), text);
        exit(1);
    }
}

static inline void overheard_line(const char *where, const char *text)
{
    if (text) overheard_text(where, text, strlen(text));
}

/* ---- in place of the calls that give texts ---- */
static inline void overheard_on_log(void *user, uint32_t level, int32_t shard, const char *text)
{
    overheard_hook *hook = overheard.hooks;
    overheard_line(level == GW_LOG_TRACE ? "the trace" : "the log", text);
    while (hook && hook->user != user) hook = hook->next;
    if (hook) hook->log(user, level, shard, text);
}

static inline void overheard_take_hook(gw_config *cfg)
{
    overheard_hook *hook = overheard.hooks;
    while (hook && hook->user != cfg->user) hook = hook->next;
    if (!hook) {
        if ((hook = (overheard_hook *)malloc(sizeof *hook)) == NULL) return;
        hook->user = cfg->user;
        hook->next = overheard.hooks;
        overheard.hooks = hook;
    }
    hook->log = cfg->log;
    cfg->log = overheard_on_log;
}

static inline gw_client *overheard_open(const gw_config *given, size_t bytes)
{
    gw_config cfg;
    if (!given || bytes != sizeof cfg) return gw_open_sized(given, bytes);
    cfg = *given;
    overheard_learn(cfg.token);
    if (cfg.log) overheard_take_hook(&cfg);
    return gw_open_sized(&cfg, bytes);
}

static inline const char *overheard_why(const gw_client *gw)
{
    const char *text = gw_why(gw);
    overheard_line("gw_why()", text);
    return text;
}

static inline const gw_event *overheard_event(const gw_client *gw, const gw_event *event)
{
    if (!event) return event;
    overheard_line("a message", event->message);
    overheard_line("a name", event->name);
    if (event->type >= GW_GATEWAY_INFO) overheard_text("a notice", event->d.ptr, event->d.len);
    overheard_why(gw);
    return event;
}

static inline const gw_event *overheard_poll(gw_client *gw)
{
    return overheard_event(gw, gw_poll(gw));
}

static inline const gw_event *overheard_wait(gw_client *gw, int32_t timeout_ms)
{
    return overheard_event(gw, gw_wait(gw, timeout_ms));
}

static inline size_t overheard_save(gw_client *gw, int32_t shard, char *out, size_t cap)
{
    size_t len = gw_session_save(gw, shard, out, cap);
    if (len < cap) overheard_text("a session text", out, len);
    return len;
}

static inline size_t overheard_stats(gw_client *gw, char *out, size_t cap)
{
    size_t len = gw_stats_text(gw, out, cap);
    if (cap) overheard_text("the numbers", out, GW__MIN(len, cap - 1));
    return len;
}

static inline void overheard_close(gw_client *gw)
{
    static char text[100000];
    if (gw) {
        overheard_why(gw);
        overheard_save(gw, GW_ALL, text, sizeof text);
        overheard_stats(gw, text, sizeof text);
    }
    gw_close(gw);
}

#define gw_open_sized(cfg, bytes) overheard_open(cfg, bytes)
#define gw_open(cfg) overheard_open(cfg, sizeof(gw_config))
#define gw_why(gw) overheard_why(gw)
#define gw_poll(gw) overheard_poll(gw)
#define gw_wait(gw, timeout_ms) overheard_wait(gw, timeout_ms)
#define gw_session_save(gw, shard, out, cap) overheard_save(gw, shard, out, cap)
#define gw_stats_text(gw, out, cap) overheard_stats(gw, out, cap)
#define gw_close(gw) overheard_close(gw)
#endif
