/* tail -- shows a bot's events as they happen: a readable line an event, or with --json one JSON object a line; of one
 *         connection or of many shards; goes on after a restart where it was (--session), and keeps a trace (--trace).
 * Build:  make examples        or: cc -I. examples/tail.c -o build/tail -lbearssl -lpthread
 * You see READY, your guilds, then each message, until Ctrl-C:  DISCORD_TOKEN=... build/tail
 *         The same as four shards:  build/tail --shards 4        All options and variables:  build/tail --help */
#ifndef _DEFAULT_SOURCE
#define _DEFAULT_SOURCE 1       /* POSIX names under -std=c99 */
#endif
static const char *api_url = "https://discord.com";
#define GW_API_URL api_url      /* so that $GW_API_URL can name another */
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
    "  --shards N           run the bot as N shards: 0 to N-1\n"
    "  --shards A-B/N       run shards A to B of N: the others run elsewhere\n"
    "  --shards auto        run as many as Discord advises\n"
    "  --send FILE          send these when the session is up: {\"op\":...,\"d\":...}, one a line;\n"
    "                       what has a guild_id goes to the guild's shard, all else to each\n"
    "  --max-payload BYTES  skip larger payloads (67108864)\n"
    "  --session FILE       leave the session of each shard there, at the end and each second, and\n"
    "                       resume them at the next start, after a crash too; a file for each tail\n"
    "  --trace FILE         write each payload there, in and out, for a later replay, one a line:\n"
    "                       {\"ms\":since the start,\"shard\":0,\"dir\":\"in\" or \"out\",\"payload\":{...}}\n"
    "                       the values of token and session_id are \"***\"\n"
    "  --help               this text\n"
    "environment\n"
    "  DISCORD_TOKEN        the bot's token\n"
    "  GW_INTENTS           which events: a number (53575421: all that need no permission)\n"
    "  GW_URL               the Gateway's URL, in place of asking Discord for it; then one shard\n"
    "                       identifies in 5.5 s, as nobody says how many may at once\n"
    "  GW_API_URL           where it is asked for (https://discord.com)\n"
    "  GW_CA_FILE           a PEM file of trusted authorities, in place of the system's\n"
    "  GW_LOG               error, warn, info, debug or trace: the library's log, on stderr\n"
    "exit code: 0 ended by you or by --for, 2 used wrongly, 10 could not go on\n";

enum { EXIT_USAGE = 2, EXIT_FATAL = 10 };
enum { SHARDS_MAX = 16384 };

typedef struct buffer {                 /* grows; begins as {NULL, 0} */
    char *ptr;
    size_t cap;
} buffer;

typedef struct tail {
    int json, data;
    double for_seconds;                 /* 0: until the user ends it */
    const char *session_file, *send_file, *trace_file;
    FILE *trace;                        /* NULL: not asked for */
    double started;                     /* seconds_now() then */
    uint32_t log_level;                 /* of what goes to stderr; 0: nothing */
    char *send_text;                    /* all of send_file */
    const char *send_at;                /* what is not queued yet */
    unsigned send_line;                 /* number of the line before send_at */
    int sending;                        /* from the first READY or RESUMED until all is queued */
    int stopping, fatal, output_error, save_failed;
    buffer session, saved;              /* of all shards: now, and what session_file holds */
    struct timespec now;                /* when the event in hand was taken */
    gw_client *gw;
} tail;

static gw_client *signal_client;        /* for on_signal() alone */
static volatile sig_atomic_t signal_count;

static void on_signal(int number)
{
    (void)number;
    signal_count = signal_count + 1;
    gw_wake(signal_client);             /* gw_wait() returns at once */
}

static const char *lower(const char *name)      /* valid until the next call */
{
    static char out[64];
    size_t i;
    for (i = 0; name[i] && i < sizeof out - 1; i++) out[i] = (char)tolower((unsigned char)name[i]);
    out[i] = 0;
    return out;
}

static double seconds_now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static const char *reason_name(uint32_t reason)
{
#define REASON_CASE(name, value, text) case value: return lower(#name);
    switch (reason) { GW_REASONS(REASON_CASE) default: return "none"; }
#undef REASON_CASE
}

/* ---- one JSON object a line ---- */
static void json_begin(const tail *t, const gw_event *ev, const char *name)
{
    printf("{\"ev\":\"%s\",\"ts\":%lld.%06ld,\"shard\":%d", name, (long long)t->now.tv_sec,
           t->now.tv_nsec / 1000, (int)ev->shard);
}

static void json_end(void)
{
    printf("}\n");
}

static void json_text(const char *key, const char *text)
{
    size_t len = strlen(text), cap = 6 * len + 3;       /* \u00XX is the longest a byte becomes */
    char *quoted = (char *)malloc(cap);
    if (quoted) gw_quote(text, len, quoted, cap);
    printf(",\"%s\":%s", key, quoted ? quoted : "null");
    free(quoted);
}

/* JSON as it came, except that a line end between its tokens becomes a space: an object is a line. */
static void write_raw(FILE *file, const char *at, size_t left)
{
    const char *run;
    while (left) {
        for (run = at; left && (unsigned char)*at >= 0x20; at++) left--;
        fwrite(run, 1, (size_t)(at - run), file);
        for (; left && (unsigned char)*at < 0x20; at++, left--) putc(' ', file);
    }
}

static void json_raw(const char *key, const gw_json *value)
{
    printf(",\"%s\":", key);
    if (value->ptr && value->len) write_raw(stdout, value->ptr, value->len);
    else printf("null");
}

static void json_member(const gw_json *object, const char *key)
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
    if (ev->type != GW_READY && ev->type != GW_RESUMED) return;
    json_begin(t, ev, lower(ev->name));
    if (ev->type == GW_READY) json_member(&ev->d, "session_id");
    json_end();
}

static void json_disconnected(const tail *t, const gw_event *ev)
{
    int is_http = ev->reason == GW_REASON_HTTP;         /* then close_code is a status */
    int kept = gw_is(&ev->d, "session", "kept");
    json_begin(t, ev, "close");
    if (ev->close_code && !is_http) printf(",\"code\":%d", (int)ev->close_code);
    else printf(",\"code\":null");
    if (is_http) printf(",\"status\":%d", (int)ev->close_code);
    printf(",\"reason\":\"%s\",\"session\":\"%s\"", reason_name(ev->reason), kept ? "kept" : "lost");
    json_text("msg", ev->message);
    json_end();
    if (ev->will == GW_NEXT_NOTHING) return;
    json_begin(t, ev, "reconnect");
    printf(",\"in_ms\":%u,\"resume\":%s", (unsigned)ev->in_ms,
           ev->will == GW_NEXT_RESUME ? "true" : "false");
    json_end();
}

static void json_notice(const tail *t, const gw_event *ev)
{
    json_begin(t, ev, lower(gw_name_of(ev->type)));
    if (ev->type == GW_SKIPPED) {
        if (strcmp(ev->name, gw_name_of(ev->type)) != 0) json_text("t", ev->name);
        printf(",\"s\":%llu,\"bytes\":%llu", (unsigned long long)ev->seq, (unsigned long long)ev->bytes);
    }
    if (ev->in_ms) printf(",\"in_ms\":%u", (unsigned)ev->in_ms);
    if (ev->ticket) printf(",\"ticket\":%d", (int)ev->ticket);
    if (ev->reason) printf(",\"reason\":\"%s\"", reason_name(ev->reason));
    if (t->data && ev->d.ptr) json_raw("d", &ev->d);
    json_text("msg", ev->message);
    json_end();
}

static void json_event(const tail *t, const gw_event *ev)
{
    if (ev->type < GW_GATEWAY_INFO) { json_dispatch(t, ev); return; }
    switch (ev->type) {
    case GW_DISCONNECTED: json_disconnected(t, ev); return;
    case GW_CONNECTING:   json_begin(t, ev, "connecting"); json_member(&ev->d, "url"); break;
    case GW_OPENED:       json_begin(t, ev, "open"); break;
    case GW_FATAL:        json_begin(t, ev, "fatal"); json_text("msg", ev->message); break;
    case GW_CLOSED:       json_begin(t, ev, "stop"); break;
    default:              json_notice(t, ev); return;
    }
    json_end();
}

/* ---- a readable line ---- */

/* Strangers write these texts: what a terminal would obey becomes a space. */
static void print_safely(const char *text, size_t len)
{
    size_t i;
    for (i = 0; i < len; i++) {
        unsigned char byte = (unsigned char)text[i];
        int is_c1 = byte == 0xC2 && i + 1 < len && (unsigned char)text[i + 1] < 0xA0;
        if (is_c1) i++;                                 /* U+0080 to U+009F, in UTF-8 */
        putchar(is_c1 || byte < 0x20 || byte == 0x7F ? ' ' : byte);
    }
}

static void print_field(const char *label, const gw_json *value)
{
    char text[72];
    uint32_t kind = gw_kind_of(value, NULL);
    size_t len = value->len;
    if (kind == GW_STRING) len = gw_text(value, NULL, text, sizeof text);
    else if (kind != GW_NUMBER && kind != GW_TRUE && kind != GW_FALSE) return;
    if (len == 0) return;
    printf("  %s=", label);
    if (kind != GW_STRING) print_safely(value->ptr, len);
    else print_safely(text, len < sizeof text ? len : strlen(text));    /* it may have a zero in it */
    if (kind == GW_STRING && len >= sizeof text) printf("...");
}

static void print_fields(const gw_json *d)
{
    static const char *const paths[] = { "author.username", "user.username", "member.user.username",
        "name", "member_count", "unavailable", "emoji.name", "status", "content", "channel_id", "guild_id",
        "shards", "session_start_limit.max_concurrency", "session_start_limit.remaining" };
    static const char *const labels[] = { "author", "user", "user",
        "name", "members", "unavailable", "emoji", "status", "content", "channel", "guild",
        "shards", "at_once", "identifies_left" };       /* of GATEWAY_INFO */
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
    char clock[16], shard[16] = "-";
    if (ev->type == GW_WOKEN || ev->type == GW_FATAL) return;   /* our own signal; said on stderr */
    strftime(clock, sizeof clock, "%H:%M:%S", localtime(&seconds));
    if (ev->shard >= 0) snprintf(shard, sizeof shard, "%d", (int)ev->shard);
    printf("%s.%03ld %3s  %-28s", clock, t->now.tv_nsec / 1000000, shard,
           is_dispatch ? ev->name : lower(gw_name_of(ev->type)));
    if (is_dispatch) {
        print_fields(&ev->d);
        if (ev->replayed) printf("  (replayed)");
    } else {
        printf("  ");
        print_safely(ev->message, strlen(ev->message));
        if (ev->type == GW_GATEWAY_INFO) print_fields(&ev->d);
    }
    if (ev->will != GW_NEXT_NOTHING)
        printf("; %s in %u ms", ev->will == GW_NEXT_RESUME ? "resumes" : "starts a new session",
               (unsigned)ev->in_ms);
    printf("\n");
}

/* ---- files ---- */

/* The whole file, 0-terminated; the caller frees it.  NULL with errno. */
static char *read_file(const char *name, size_t *len)
{
    FILE *file = fopen(name, "rb");
    char *text = NULL, *more;
    size_t cap = 0, got = 1;
    int error = 0;
    *len = 0;
    if (!file) return NULL;
    while (got > 0 && !error) {
        more = (char *)realloc(text, cap += 4096);
        if (!more) { error = ENOMEM; break; }
        text = more;
        got = fread(text + *len, 1, cap - *len - 1, file);
        if (ferror(file)) error = errno;
        *len += got;
        text[*len] = 0;
    }
    fclose(file);
    if (!error) return text;
    free(text);
    errno = error;
    return NULL;
}

/* By rename, so that no crash leaves half of it.  For its owner alone: it stands for the bot's session. */
static int write_session(const char *name, const char *text, size_t len)
{
    char other[4096];
    int file, good;
    if ((size_t)snprintf(other, sizeof other, "%s.tmp", name) >= sizeof other) {
        errno = ENAMETOOLONG;
        return 0;
    }
    file = open(other, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (file < 0) return 0;
    good = write(file, text, len) == (ssize_t)len;
    return (close(file) == 0) & good && rename(other, name) == 0;
}

/* The sessions of all shards into t->session, which grows with them.  0: there is nothing, or no memory. */
static int session_text(tail *t)
{
    size_t len = gw_session_save(t->gw, GW_ALL, t->session.ptr, t->session.cap);
    if (len >= t->session.cap) {
        size_t cap = len + GW_SESSION_MAX;
        char *grown = (char *)realloc(t->session.ptr, cap);
        if (!grown) return 0;
        t->session.ptr = grown;
        t->session.cap = cap;
        len = gw_session_save(t->gw, GW_ALL, grown, cap);
    }
    return len > 0 && len < t->session.cap;
}

static void save_session(tail *t)
{
    buffer written;
    if (!t->session_file || !session_text(t)) return;
    if (t->saved.ptr && strcmp(t->session.ptr, t->saved.ptr) == 0) return;      /* nothing new */
    if (write_session(t->session_file, t->session.ptr, strlen(t->session.ptr))) {
        written = t->session;
        t->session = t->saved;
        t->saved = written;
        t->save_failed = 0;
    } else if (!t->save_failed) {       /* said once, tried again each second */
        fprintf(stderr, "tail: the session cannot be saved in %s: %s\n", t->session_file, strerror(errno));
        t->save_failed = 1;
    }
}

/* ---- --send ---- */

/* The next line that is not empty; 0 at the end. */
static int next_payload(const char **at, unsigned *line, gw_json *payload)
{
    memset(payload, 0, sizeof *payload);
    while (**at && payload->len == 0) {
        const char *begin = *at;
        size_t len = strcspn(begin, "\n");
        *at = begin + len + (begin[len] == '\n');
        ++*line;
        for (; len > 0 && isspace((unsigned char)*begin); len--) begin++;
        while (len > 0 && isspace((unsigned char)begin[len - 1])) len--;
        payload->ptr = begin;
        payload->len = len;
    }
    return payload->len > 0;
}

static const char *payload_fault(const gw_json *payload)
{
    if (gw_kind_of(payload, NULL) != GW_OBJECT) return "is no JSON object";
    if (gw_kind_of(payload, "op") != GW_NUMBER) return "has no number \"op\"";
    if (gw_f64(payload, "op") != (double)gw_u64(payload, "op")) return "has an \"op\" that is no opcode";
    return gw_kind_of(payload, "d") == GW_ABSENT ? "has no \"d\"" : NULL;
}

/* All lines are looked at before we connect.  0, or the exit code. */
static int read_payloads(tail *t)
{
    gw_json payload;
    const char *at, *fault = NULL;
    unsigned line = 0;
    size_t len;
    t->send_text = read_file(t->send_file, &len);
    if (!t->send_text) {
        fprintf(stderr, "tail: --send: %s cannot be read: %s\n", t->send_file, strerror(errno));
        return EXIT_USAGE;
    }
    t->send_at = at = t->send_text;
    while (!fault && next_payload(&at, &line, &payload)) fault = payload_fault(&payload);
    if (!fault && strlen(t->send_text) < len) fault = "is followed by a zero byte";
    if (!fault) return 0;
    fprintf(stderr, "tail: --send: line %u of %s %s; a line is {\"op\":3,\"d\":{...}}\n", line,
            t->send_file, fault);
    return EXIT_USAGE;
}

static void send_more(tail *t)
{
    while (t->sending) {
        const char *at = t->send_at;
        unsigned line = t->send_line;
        gw_json payload, d;
        uint64_t guild_id;
        gw_ticket ticket;
        if (!next_payload(&at, &line, &payload)) { t->sending = 0; return; }
        gw_get(&payload, "d", &d);
        guild_id = gw_u64(&d, "guild_id");
        ticket = gw_send_raw(t->gw, guild_id ? gw_shard_of(t->gw, guild_id) : GW_ALL,
                             (uint32_t)gw_u64(&payload, "op"), d.ptr, d.len);
        if (ticket == GW_ERROR_QUEUE_FULL || ticket == GW_ERROR_ENDED) return;  /* later, or never */
        if (ticket < 0)
            fprintf(stderr, "tail: --send: line %u of %s was not sent: %s\n", line, t->send_file,
                    gw_why(t->gw));
        t->send_at = at;
        t->send_line = line;
    }
}

/* ---- the program ---- */
static void take_event(tail *t, const gw_event *ev)
{
    clock_gettime(CLOCK_REALTIME, &t->now);
    if (t->json) json_event(t, ev);
    else print_event(t, ev);
    if (fflush(stdout) != 0) { t->output_error = errno; return; }
    if (ev->type == GW_FATAL) {
        fprintf(stderr, "tail: %s\n", ev->message);
        t->fatal = 1;
    }
    /* The line is out: from now on a saved session names this event, and no new start shows it again. */
    if (ev->type < GW_GATEWAY_INFO || ev->type == GW_SKIPPED) gw_ack(t->gw, ev->shard, ev->session, ev->seq);
    if (ev->type == GW_READY || ev->type == GW_IDENTIFYING) save_session(t);
    if ((ev->type == GW_READY || ev->type == GW_RESUMED) && t->send_text && t->send_line == 0) t->sending = 1;
}

static void run(tail *t)
{
    double now = seconds_now(), end = now + (t->for_seconds > 0 ? t->for_seconds : 1e12), save_at = now;
    while (gw_alive(t->gw) && signal_count < 2) {   /* asked twice: leave without waiting for the peer */
        double patience = t->sending ? 0.1 : t->stopping || end - now > 1 ? 1 : end - now;
        const gw_event *ev = gw_wait(t->gw, (int32_t)(patience * 1000) + 1);
        if (ev) take_event(t, ev);
        now = seconds_now();
        if (now >= save_at && !t->fatal) {
            save_session(t);
            save_at = now + 1;
        }
        if (!t->stopping && (signal_count || t->output_error || now >= end)) {
            t->stopping = 1;
            gw_stop(t->gw, t->session_file ? GW_KEEP : GW_END);
        }
        if (!t->stopping) send_more(t);
    }
    if (!t->fatal) save_session(t);
    if (t->sending)
        fprintf(stderr, "tail: --send: %s was sent up to its line %u only\n", t->send_file, t->send_line);
    gw_close(t->gw);
}

static const char *const log_levels[] = { "", "error", "warn", "info", "debug", "trace" };

/* Payloads come as "< {json}" and "> {json}", one a line, and at this level nothing else does. */
static void trace_line(const tail *t, int32_t shard, const char *line)
{
    fprintf(t->trace, "{\"ms\":%.0f,\"shard\":%d,\"dir\":\"%s\",\"payload\":",
            (seconds_now() - t->started) * 1000, (int)shard, *line == '<' ? "in" : "out");
    write_raw(t->trace, line + 2, strlen(line + 2));
    fputs("}\n", t->trace);
}

static void on_log(void *user, uint32_t level, int32_t shard, const char *line)
{
    const tail *t = (const tail *)user;
    int is_payload = level == GW_LOG_TRACE && (*line == '<' || *line == '>') && line[1] == ' ';
    if (t->trace && is_payload) trace_line(t, shard, line);
    if (level <= t->log_level) fprintf(stderr, "%-5s %d  %s\n", log_levels[level], (int)shard, line);
}

/* 0, or the exit code: what cannot be written is said before we connect. */
static int open_trace(tail *t)
{
    t->started = seconds_now();
    t->trace = fopen(t->trace_file, "w");
    if (t->trace && setvbuf(t->trace, NULL, _IOLBF, 65536) == 0) return 0;  /* whole lines, also after a kill */
    fprintf(stderr, "tail: --trace: %s cannot be written: %s\n", t->trace_file, strerror(errno));
    return EXIT_USAGE;
}

/* 0, or the exit code. */
static int close_trace(tail *t)
{
    int good = !ferror(t->trace);
    if ((fclose(t->trace) == 0) & good) return 0;
    fprintf(stderr, "tail: --trace: %s is not whole: it could not be written\n", t->trace_file);
    return EXIT_FATAL;
}

static int usage(const char *text, const char *what)
{
    fprintf(stderr, "tail: ");
    fprintf(stderr, text, what);
    fprintf(stderr, "; see tail --help\n");
    return EXIT_USAGE;
}

static double number_of(const char *text, double most)      /* above 0 and up to most; 0: it is none */
{
    char *end;
    double value = strtod(text, &end);
    return end != text && *end == 0 && value > 0 && value <= most ? value : 0;
}

/* Digits from *at on, up to SHARDS_MAX; -1: there are none.  *at is then behind them. */
static int32_t shard_number(const char **at)
{
    int32_t number = -1;
    for (; isdigit((unsigned char)**at); ++*at) {
        number = (number < 0 ? 0 : number) * 10 + (**at - '0');
        if (number > SHARDS_MAX) return -1;
    }
    return number;
}

/* "4", "0-3/16" or "auto".  0, or the exit code. */
static int read_shards(gw_config *cfg, const char *value)
{
    const char *at = value;
    int32_t first = 0, last, total;
    if (strcmp(value, "auto") == 0) {
        cfg->shard_count = GW_ALL;
        return 0;
    }
    total = shard_number(&at);
    last = total - 1;
    if (*at == '-') {
        first = total;
        at++;
        last = shard_number(&at);
        total = *at == '/' ? (at++, shard_number(&at)) : -1;
    }
    if (*at || first < 0 || last < first || total <= last)
        return usage("--shards needs a count from 1 to 16384, a range such as 0-3/16 (ids begin at 0 and end"
                     " below the total), or auto, not \"%s\"", value);
    cfg->shard_first = first;
    cfg->shard_count = last - first + 1;
    cfg->shard_total = total;
    return 0;
}

/* 0, or the exit code; -1: all is done. */
static int read_options(tail *t, gw_config *cfg, int argc, char **argv)
{
    static const char *const with_value[] = { "--for", "--shards", "--send", "--session", "--trace",
                                              "--max-payload" };
    size_t k;
    int i;
    for (i = 1; i < argc; i++) {
        const char *option = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(option, "--help") == 0) { fputs(help, stdout); return -1; }
        if (strcmp(option, "--json") == 0) { t->json = 1; continue; }
        if (strcmp(option, "--data") == 0) { t->data = 1; continue; }
        for (k = 0; k < sizeof with_value / sizeof *with_value; k++)
            if (strcmp(option, with_value[k]) == 0) break;
        if (k == sizeof with_value / sizeof *with_value) return usage("there is no option %s", option);
        if (!value) return usage("%s needs a value", option);
        i++;
        if (strcmp(option, "--send") == 0) t->send_file = value;
        if (strcmp(option, "--session") == 0) t->session_file = value;
        if (strcmp(option, "--trace") == 0) t->trace_file = value;
        if (strcmp(option, "--shards") == 0 && read_shards(cfg, value) != 0) return EXIT_USAGE;
        if (strcmp(option, "--for") == 0 && (t->for_seconds = number_of(value, 1e9)) == 0)
            return usage("--for needs seconds above 0, not \"%s\"", value);
        if (strcmp(option, "--max-payload") == 0 &&
            (cfg->max_payload = (uint32_t)number_of(value, 4294967295.0)) == 0)
            return usage("--max-payload needs bytes from 1 to 4294967295, not \"%s\"", value);
    }
    return 0;
}

static const char *environment(const char *name)
{
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}

static int read_environment(tail *t, gw_config *cfg)
{
    const char *intents = environment("GW_INTENTS"), *log = environment("GW_LOG");
    char *end = NULL;
    unsigned long number = GW_INTENTS_UNPRIVILEGED;
    cfg->token = environment("DISCORD_TOKEN");
    cfg->url = environment("GW_URL");
    cfg->ca_file = environment("GW_CA_FILE");
    if (environment("GW_API_URL")) api_url = environment("GW_API_URL");
    if (!cfg->token) {
        fprintf(stderr, "tail: no token: set DISCORD_TOKEN to your bot's token;"
                " to try it without one, type: make run\n");
        return EXIT_USAGE;
    }
    if (intents) {
        errno = 0;
        number = strtoul(intents, &end, 0);
        if (errno || *end || !isdigit((unsigned char)*intents) || number > 0xFFFFFFFFul)
            return usage("GW_INTENTS is a number such as 33281, not \"%s\"", intents);
    }
    cfg->intents = (uint32_t)number;
    if (cfg->url && cfg->shard_count == GW_ALL)
        return usage("--shards auto asks Discord how many; it cannot go with GW_URL, which is %s", cfg->url);
    if (!log) return 0;
    for (t->log_level = GW_LOG_TRACE; t->log_level > 0; t->log_level--)
        if (strcmp(log, log_levels[t->log_level]) == 0) return 0;
    return usage("GW_LOG is error, warn, info, debug or trace, not \"%s\"", log);
}

/* A first start finds no file; what cannot be read or written is said now, not when it is needed. */
static int read_session(const tail *t, char **text, size_t *len)
{
    const char *what = "read";
    *text = read_file(t->session_file, len);
    if (*text || errno == ENOENT) {
        if (write_session(t->session_file, *text ? *text : "", *len)) return 0;
        what = "written";
    }
    fprintf(stderr, "tail: --session: %s cannot be %s: %s\n", t->session_file, what, strerror(errno));
    return EXIT_USAGE;
}

int main(int argc, char **argv)
{
    gw_config cfg = GW_INIT;
    char *session = NULL;
    static tail t;
    int code = read_options(&t, &cfg, argc, argv);
    if (code == 0) code = read_environment(&t, &cfg);
    if (code == 0 && t.send_file) code = read_payloads(&t);
    if (code == 0 && t.session_file) code = read_session(&t, &session, &cfg.session_len);
    if (code == 0 && t.trace_file) code = open_trace(&t);
    if (code != 0) return code < 0 ? 0 : code;

    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    signal(SIGPIPE, SIG_IGN);           /* "tail | head" ends in order, too */
    cfg.session = session;
    cfg.user = &t;
    cfg.log = t.trace || t.log_level ? on_log : NULL;
    cfg.log_level = t.trace ? GW_LOG_TRACE : t.log_level;
    cfg.ack_by_hand = 1;                /* a saved session names what was printed */
    signal_client = t.gw = gw_open(&cfg);
    free(session);
    if (!t.gw) {
        fprintf(stderr, "tail: there is not enough memory\n");
        return EXIT_FATAL;
    }
    run(&t);
    free(t.send_text);
    free(t.session.ptr);
    free(t.saved.ptr);
    if (t.trace) code = close_trace(&t);
    if (t.output_error && t.output_error != EPIPE) {
        fprintf(stderr, "tail: the output cannot be written: %s\n", strerror(t.output_error));
        return EXIT_FATAL;
    }
    return t.fatal ? EXIT_FATAL : code;
}
