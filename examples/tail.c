/* tail -- shows a bot's events as they happen: a readable line an event, or with --json one JSON object a line.
 * Build:  make examples        or: cc -I. examples/tail.c -o build/tail -lbearssl -lpthread
 * You see READY, your guilds, then every message, until Ctrl-C:  DISCORD_TOKEN=... build/tail       (more: --help) */
#ifndef _DEFAULT_SOURCE
#define _DEFAULT_SOURCE 1       /* POSIX names under -std=c99 */
#endif
#define DISCORD_GATEWAY_IMPLEMENTATION
#include "discord_gateway.h"
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char help[] =
    "tail: shows a Discord bot's events as they happen\n"
    "  DISCORD_TOKEN=... tail [options]\n"
    "  --json               one JSON object a line, for other programs\n"
    "  --data               ... with the whole payload of each event as \"d\"\n"
    "  --for SECONDS        end after so long\n"
    "  --send FILE          send these payloads when the session is up: {\"op\":...,\"d\":...}, one a line\n"
    "  --max-payload BYTES  skip larger payloads (67108864)\n"
    "  --session FILE       keep the session there when you leave, and resume it at the next start\n"
    "  --help               this text\n"
    "environment\n"
    "  DISCORD_TOKEN        the bot's token\n"
    "  GW_INTENTS           a number: which events (53575421: all that need no permission in the portal)\n"
    "  GW_URL               a Gateway's URL, in place of asking Discord for it\n"
    "  GW_CA_FILE           a PEM file of trusted authorities, in place of the system's\n"
    "  GW_LOG               error, warn, info, debug or trace: the library's log on stderr\n"
    "exit code: 0 ended by you or by --for, 2 used wrongly, 10 could not go on\n";

enum { EXIT_USAGE = 2, EXIT_FATAL = 10 };

typedef struct tail {
    int json, data;
    double for_seconds;             /* 0: until the user ends it */
    const char *session_file, *send_file;
    char *send_text;                /* all of send_file */
    const char *send_at;            /* what was not sent yet */
    unsigned send_line;             /* number of the line before send_at */
    int32_t send_shard;
    int sending;                    /* from the first READY or RESUMED until all is queued */
    int stopping, fatal, output_broken, save_failed;
    struct timespec now;            /* when the event in hand was taken */
    gw_client *gw;
} tail;

static gw_client *signal_client;                /* for on_signal() only */
static volatile sig_atomic_t signal_count;

static void on_signal(int number)
{
    (void)number;
    signal_count++;
    gw_wake(signal_client);         /* gw_wait() returns at once */
}

static int usage(const char *text, const char *what)
{
    fprintf(stderr, "tail: ");
    fprintf(stderr, text, what);
    fprintf(stderr, "; see tail --help\n");
    return EXIT_USAGE;
}

static double monotonic_seconds(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static const char *lower(const char *name)
{
    static char out[64];
    size_t i;
    for (i = 0; name[i] && i < sizeof out - 1; i++) out[i] = (char)tolower((unsigned char)name[i]);
    out[i] = 0;
    return out;
}

static const char *reason_name(uint32_t reason)
{
#define REASON_CASE(name, value, text) case value: return lower(#name);
    switch (reason) { GW_REASONS(REASON_CASE) default: return "none"; }
#undef REASON_CASE
}

/* ---- one JSON object a line ------------------------------------------------------------------------------------- */
static void json_begin(const tail *t, const gw_event *ev, const char *name)
{
    printf("{\"ev\":\"%s\",\"ts\":%lld.%06ld,\"shard\":%d", name, (long long)t->now.tv_sec, t->now.tv_nsec / 1000,
           (int)ev->shard);
}

static void json_end(void) { printf("}\n"); }

static void json_text(const char *key, const char *text)
{
    size_t len = strlen(text), cap = 6 * len + 3;   /* \u00XX is the longest a byte becomes */
    char *quoted = (char *)malloc(cap);
    if (quoted) gw_quote(text, len, quoted, cap);
    printf(",\"%s\":%s", key, quoted ? quoted : "null");
    free(quoted);
}

/* JSON text as it came; line ends between its tokens become spaces, as a line is one object. */
static void json_raw(const char *key, const gw_json *value)
{
    const char *at = value->ptr, *end = at + value->len, *run;
    printf(",\"%s\":", key);
    if (!at) printf("null");
    while (at < end) {
        for (run = at; at < end && (unsigned char)*at >= 0x20; at++) {}
        fwrite(run, 1, (size_t)(at - run), stdout);
        if (at < end) { putchar(' '); at++; }
    }
}

static void json_member(const char *key, const gw_json *object)    /* object's member of that name, as it came */
{
    gw_json value;
    gw_get(object, key, &value);
    json_raw(key, &value);
}

static void json_dispatch(const tail *t, const gw_event *ev)
{
    json_begin(t, ev, "dispatch");
    json_text("t", ev->name);
    printf(",\"s\":%llu", (unsigned long long)ev->seq);
    if (ev->replayed) printf(",\"replayed\":true");
    if (t->data) json_raw("d", &ev->d);
    json_end();
    if (ev->type == GW_READY) {
        json_begin(t, ev, "ready");
        json_member("session_id", &ev->d);
        json_end();
    } else if (ev->type == GW_RESUMED) {
        json_begin(t, ev, "resumed");
        json_end();
    }
}

static void json_disconnected(const tail *t, const gw_event *ev, int kept)
{
    int has_code = ev->close_code != 0 && ev->reason != GW_REASON_HTTP;
    json_begin(t, ev, "close");
    if (has_code) printf(",\"code\":%d", (int)ev->close_code);
    else printf(",\"code\":null");
    if (ev->reason == GW_REASON_HTTP) printf(",\"status\":%d", (int)ev->close_code);
    printf(",\"reason\":\"%s\",\"session\":\"%s\"", reason_name(ev->reason), kept ? "kept" : "lost");
    json_text("msg", ev->message);
    json_end();
    if (ev->will == GW_NEXT_NOTHING) return;
    json_begin(t, ev, "reconnect");
    printf(",\"in_ms\":%u,\"resume\":%s", (unsigned)ev->in_ms, ev->will == GW_NEXT_RESUME ? "true" : "false");
    json_end();
}

static void json_notice(const tail *t, const gw_event *ev)
{
    json_begin(t, ev, lower(gw_name_of(ev->type)));
    if (ev->type == GW_SKIPPED) {
        json_text("t", ev->name);
        printf(",\"s\":%llu,\"bytes\":%llu", (unsigned long long)ev->seq, (unsigned long long)ev->bytes);
    }
    if (ev->type == GW_IDENTIFY_HELD || ev->type == GW_POLLED_LATE) printf(",\"in_ms\":%u", (unsigned)ev->in_ms);
    if (ev->ticket) printf(",\"ticket\":%d", (int)ev->ticket);
    if (ev->reason) printf(",\"reason\":\"%s\"", reason_name(ev->reason));
    if (t->data && ev->d.ptr) json_raw("d", &ev->d);
    json_text("msg", ev->message);
    json_end();
}

static void json_event(const tail *t, const gw_event *ev, int kept)
{
    if (ev->type < GW_GATEWAY_INFO) { json_dispatch(t, ev); return; }
    switch (ev->type) {
    case GW_DISCONNECTED: json_disconnected(t, ev, kept); break;
    case GW_CONNECTING: json_begin(t, ev, "connecting"); json_member("url", &ev->d); json_end(); break;
    case GW_OPENED:     json_begin(t, ev, "open"); json_end(); break;
    case GW_FATAL:      json_begin(t, ev, "fatal"); json_text("msg", ev->message); json_end(); break;
    case GW_CLOSED:     json_begin(t, ev, "stop"); json_end(); break;
    default:            json_notice(t, ev); break;
    }
}

/* ---- a readable line --------------------------------------------------------------------------------------------- */

/* Strangers write these texts: what a terminal would take for a command is shown as a space. */
static void print_safely(const char *text, size_t len)
{
    size_t i;
    for (i = 0; i < len; i++) {
        unsigned char byte = (unsigned char)text[i];
        if (byte == 0xC2 && i + 1 < len && (unsigned char)text[i + 1] < 0xA0) { putchar(' '); i++; }
        else putchar(byte < 0x20 || byte == 0x7F ? ' ' : byte);
    }
}

static void print_field(const char *label, const gw_json *value)
{
    char text[72];
    size_t len = value->len;
    uint32_t kind = gw_kind_of(value, NULL);
    if (kind == GW_ABSENT || kind == GW_NULL || kind == GW_ARRAY || kind == GW_OBJECT) return;
    if (kind == GW_STRING) len = gw_text(value, NULL, text, sizeof text);
    if (len == 0) return;
    printf("  %s=", label);
    print_safely(kind == GW_STRING ? text : value->ptr, kind == GW_STRING ? strlen(text) : len);
    if (kind == GW_STRING && len >= sizeof text) printf("...");
}

static void print_fields(const gw_json *d)
{
    static const char *const paths[] = { "author.username", "user.username", "member.user.username", "name", "member_count",
        "unavailable", "emoji.name", "status", "content", "channel_id", "guild_id" };
    static const char *const labels[] = { "author", "user", "user", "name", "members",
        "unavailable", "emoji", "status", "content", "channel", "guild" };
    enum { COUNT = sizeof paths / sizeof *paths };
    gw_json fields[COUNT];
    int i;
    gw_pick(d, paths, COUNT, fields);
    for (i = 0; i < COUNT; i++) print_field(labels[i], &fields[i]);
}

static void print_event(const tail *t, const gw_event *ev)
{
    int is_dispatch = ev->type < GW_GATEWAY_INFO;
    time_t seconds = t->now.tv_sec;
    char time[16], shard[16];
    if (ev->type == GW_WOKEN) return;           /* our own signal handler */
    strftime(time, sizeof time, "%H:%M:%S", localtime(&seconds));
    snprintf(shard, sizeof shard, "%d", (int)ev->shard);
    printf("%s.%03ld %3s  ", time, t->now.tv_nsec / 1000000, ev->shard < 0 ? "-" : shard);
    printf("%-28s", is_dispatch ? ev->name : lower(gw_name_of(ev->type)));
    if (is_dispatch) {
        print_fields(&ev->d);
        if (ev->replayed) printf("  (replayed)");
    } else if (ev->type == GW_CONNECTING) {
        gw_json url;
        gw_get(&ev->d, "url", &url);
        print_field("url", &url);
    } else {
        printf("  ");
        print_safely(ev->message, strlen(ev->message));
    }
    if (ev->type == GW_DISCONNECTED && ev->will != GW_NEXT_NOTHING)
        printf(" (%s in %u ms)", ev->will == GW_NEXT_RESUME ? "resuming" : "a new session", (unsigned)ev->in_ms);
    printf("\n");
}

/* ---- files ------------------------------------------------------------------------------------------------------- */

/* The whole file, 0-terminated; the caller frees it.  NULL with errno. */
static char *read_file(const char *name, size_t *len)
{
    FILE *file = fopen(name, "rb");
    char *text = NULL, *more;
    size_t cap = 0, got;
    int failed = 0;
    *len = 0;
    if (!file) return NULL;
    do {
        more = (char *)realloc(text, cap += 4096);
        if (!more) { failed = ENOMEM; break; }
        text = more;
        got = fread(text + *len, 1, cap - *len - 1, file);
        *len += got;
        text[*len] = 0;
    } while (got > 0);
    if (ferror(file)) failed = errno;
    fclose(file);
    if (failed) { free(text); errno = failed; return NULL; }
    return text;
}

/* By rename, so that no crash leaves half a session; for this user alone, as its owner can act as the bot's session. */
static int write_session(const char *name, const char *text, size_t len)
{
    char temporary[4096];
    int fd, good;
    if ((size_t)snprintf(temporary, sizeof temporary, "%s.tmp", name) >= sizeof temporary) { errno = ENAMETOOLONG; return 0; }
    fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0) return 0;
    good = write(fd, text, len) == (ssize_t)len;
    if (close(fd) != 0) good = 0;
    if (!good) return 0;
    return rename(temporary, name) == 0;
}

static void save_session(tail *t)
{
    char text[GW_SESSION_MAX];
    size_t len;
    if (!t->session_file) return;
    len = gw_session_save(t->gw, GW_ALL, text, sizeof text);
    if (len == 0 || len > sizeof text) return;      /* there is none yet */
    if (write_session(t->session_file, text, len)) { t->save_failed = 0; return; }
    if (!t->save_failed) fprintf(stderr, "tail: the session cannot be written to %s: %s\n", t->session_file, strerror(errno));
    t->save_failed = 1;                             /* said once, tried again each second */
}

/* ---- --send ------------------------------------------------------------------------------------------------------ */

/* The next line that is not empty; 0 at the end. */
static int next_payload(const char **at, unsigned *line, gw_json *payload)
{
    while (**at) {
        const char *begin = *at;
        size_t len = strcspn(begin, "\n");
        *at = begin + len + (begin[len] == '\n');
        ++*line;
        while (len > 0 && isspace((unsigned char)*begin)) { begin++; len--; }
        while (len > 0 && isspace((unsigned char)begin[len - 1])) len--;
        payload->ptr = begin;
        payload->len = len;
        payload->index = NULL;
        if (len > 0) return 1;
    }
    return 0;
}

static const char *payload_fault(const gw_json *payload)
{
    if (gw_kind_of(payload, NULL) != GW_OBJECT) return "no JSON object";
    if (gw_kind_of(payload, "op") != GW_NUMBER) return "no number \"op\"";
    if (gw_f64(payload, "op") != (double)gw_u64(payload, "op")) return "an \"op\" that is no opcode";
    if (gw_kind_of(payload, "d") == GW_ABSENT) return "no \"d\"";
    return NULL;
}

/* All of it is looked at before we connect.  1: good. */
static int read_payloads(tail *t)
{
    gw_json payload;
    const char *at, *fault;
    unsigned line = 0;
    size_t len;
    t->send_text = read_file(t->send_file, &len);
    if (!t->send_text) {
        fprintf(stderr, "tail: --send: %s cannot be read: %s\n", t->send_file, strerror(errno));
        return 0;
    }
    t->send_at = at = t->send_text;
    while (next_payload(&at, &line, &payload)) {
        fault = payload_fault(&payload);
        if (!fault) continue;
        fprintf(stderr, "tail: --send: line %u of %s has %s; a line is {\"op\":3,\"d\":{...}}\n", line, t->send_file, fault);
        return 0;
    }
    if (strlen(t->send_text) == len) return 1;
    fprintf(stderr, "tail: --send: %s is no text: it has a zero byte\n", t->send_file);
    return 0;
}

static void send_more(tail *t)
{
    gw_json payload, d;
    gw_ticket ticket;
    while (t->sending) {
        const char *at = t->send_at;
        unsigned line = t->send_line;
        if (!next_payload(&at, &line, &payload)) { t->sending = 0; return; }
        gw_get(&payload, "d", &d);
        ticket = gw_send_raw(t->gw, t->send_shard, (uint32_t)gw_u64(&payload, "op"), d.ptr, d.len);
        if (ticket == GW_ERROR_QUEUE_FULL) return;      /* again at the next turn of the loop */
        if (ticket < 0)
            fprintf(stderr, "tail: --send: line %u of %s was not sent: %s\n", line, t->send_file, gw_why(t->gw));
        if (ticket == GW_ERROR_ENDED) { t->sending = 0; return; }
        t->send_at = at;
        t->send_line = line;
    }
}

/* ---- the program ------------------------------------------------------------------------------------------------- */
static void take_event(tail *t, const gw_event *ev)
{
    int kept = ev->will == GW_NEXT_RESUME || (t->stopping && t->session_file);
    clock_gettime(CLOCK_REALTIME, &t->now);
    if (t->json) json_event(t, ev, kept);
    else print_event(t, ev);
    if (fflush(stdout) != 0) { t->output_broken = errno; return; }
    if (ev->type == GW_FATAL) {
        fprintf(stderr, "tail: %s\n", ev->message);
        t->fatal = 1;
    }
    /* The line is out: a session saved from now on names this event, so a new start does not show it again. */
    if (ev->type < GW_GATEWAY_INFO) gw_ack(t->gw, ev->shard, ev->session, ev->seq);
    if (ev->type == GW_READY || ev->type == GW_IDENTIFYING) save_session(t);
    if ((ev->type == GW_READY || ev->type == GW_RESUMED) && t->send_text && !t->send_line) {
        t->sending = 1;
        t->send_shard = ev->shard;
    }
}

static void run(tail *t)
{
    double end = monotonic_seconds() + t->for_seconds, save_at = 0, now;
    while (gw_alive(t->gw)) {
        const gw_event *ev = gw_wait(t->gw, t->sending ? 100 : t->for_seconds > 0 ? 200 : 1000);
        if (ev) take_event(t, ev);
        now = monotonic_seconds();
        if (now >= save_at && !t->fatal) {
            save_session(t);
            save_at = now + 1;
        }
        if (!t->stopping && (signal_count || t->output_broken || (t->for_seconds > 0 && now >= end))) {
            t->stopping = 1;
            gw_stop(t->gw, t->session_file ? GW_KEEP : GW_END);
        }
        if (!t->stopping) send_more(t);
        if (signal_count > 1) break;                /* asked twice: leave without waiting for the peer */
    }
    if (!t->fatal) save_session(t);
    if (t->sending) fprintf(stderr, "tail: --send: %s was sent up to line %u only\n", t->send_file, t->send_line);
    gw_close(t->gw);
}

static void log_line(void *user, uint32_t level, int32_t shard, const char *text)
{
    static const char *const names[] = { "", "error", "warn", "info", "debug", "trace" };
    const char *wanted = (const char *)user;
    uint32_t most = GW_LOG_TRACE;
    while (most > 0 && strcmp(names[most], wanted) != 0) most--;
    if (level <= most) fprintf(stderr, "%-5s %d  %s\n", names[level], (int)shard, text);
}

/* The value of an option that takes a number within 1 and most; 0: it is none. */
static double number_of(const char *text, double most)
{
    char *end;
    double value = strtod(text, &end);
    return end != text && *end == 0 && value > 0 && value <= most ? value : 0;
}

static const char *environment(const char *name)
{
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}

/* 0, or the exit code; -1: all is done (--help). */
static int read_options(tail *t, gw_config *cfg, int argc, char **argv)
{
    int i;
    for (i = 1; i < argc; i++) {
        const char *option = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(option, "--help") == 0) { fputs(help, stdout); return -1; }
        if (strcmp(option, "--json") == 0) { t->json = 1; continue; }
        if (strcmp(option, "--data") == 0) { t->data = 1; continue; }
        if (strcmp(option, "--for") != 0 && strcmp(option, "--send") != 0 && strcmp(option, "--session") != 0 &&
            strcmp(option, "--max-payload") != 0) return usage("there is no option %s", option);
        if (!value) return usage("%s needs a value", option);
        i++;
        if (strcmp(option, "--send") == 0) t->send_file = value;
        if (strcmp(option, "--session") == 0) t->session_file = value;
        if (strcmp(option, "--for") == 0 && (t->for_seconds = number_of(value, 1e9)) == 0)
            return usage("--for needs seconds above 0, not \"%s\"", value);
        if (strcmp(option, "--max-payload") == 0 && (cfg->max_payload = (uint32_t)number_of(value, 4294967295.0)) == 0)
            return usage("--max-payload needs bytes from 1 to 4294967295, not \"%s\"", value);
    }
    return 0;
}

static int read_environment(gw_config *cfg)
{
    const char *intents = environment("GW_INTENTS");
    char *end = NULL;
    unsigned long number;
    cfg->token = environment("DISCORD_TOKEN");
    cfg->url = environment("GW_URL");
    cfg->ca_file = environment("GW_CA_FILE");
    cfg->user = getenv("GW_LOG");
    cfg->log = environment("GW_LOG") ? log_line : NULL;
    cfg->intents = GW_INTENTS_UNPRIVILEGED;
    if (!cfg->token) {
        fprintf(stderr, "tail: no token: set DISCORD_TOKEN to your bot's token; to try it without one, type: make run\n");
        return EXIT_USAGE;
    }
    if (!intents) return 0;
    errno = 0;
    number = strtoul(intents, &end, 0);
    if (errno || *end || !isdigit((unsigned char)*intents) || number > 0xFFFFFFFFul)
        return usage("GW_INTENTS is a number such as 33281, not \"%s\"", intents);
    cfg->intents = (uint32_t)number;
    return 0;
}

/* A first start has no session; what cannot be read or written is said now, not when it is needed. */
static int read_session(const tail *t, char **text, size_t *len)
{
    *text = read_file(t->session_file, len);
    if (!*text && errno != ENOENT) {
        fprintf(stderr, "tail: --session: %s cannot be read: %s\n", t->session_file, strerror(errno));
        return EXIT_USAGE;
    }
    if (write_session(t->session_file, *text ? *text : "", *len)) return 0;
    fprintf(stderr, "tail: --session: %s cannot be written: %s\n", t->session_file, strerror(errno));
    return EXIT_USAGE;
}

int main(int argc, char **argv)
{
    gw_config cfg = GW_INIT;
    tail t;
    char *session = NULL;
    size_t session_len = 0;
    int code;
    memset(&t, 0, sizeof t);
    code = read_options(&t, &cfg, argc, argv);
    if (code == 0) code = read_environment(&cfg);
    if (code == 0 && t.send_file && !read_payloads(&t)) code = EXIT_USAGE;
    if (code == 0 && t.session_file) code = read_session(&t, &session, &session_len);
    if (code != 0) return code < 0 ? 0 : code;

    cfg.session = session;
    cfg.session_len = session_len;
    signal_client = t.gw = gw_open(&cfg);
    free(session);
    if (!t.gw) {
        fprintf(stderr, "tail: there is not enough memory\n");
        return EXIT_FATAL;
    }
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    signal(SIGPIPE, SIG_IGN);           /* "tail | head" ends in order, too */
    run(&t);
    free(t.send_text);
    if (t.output_broken && t.output_broken != EPIPE) {
        fprintf(stderr, "tail: the output cannot be written: %s\n", strerror(t.output_broken));
        return EXIT_FATAL;
    }
    return t.fatal ? EXIT_FATAL : 0;
}
