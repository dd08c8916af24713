/* main.c -- gwbench: measures the library against a bare BearSSL loop, in one run, on one corpus.
 *   gwbench [--runs N] [--rows a,b] [--quick] [--out FILE] [--certs DIR]      `make bench` calls it
 *   gwbench --uptime MINUTES [--minute-ms MS]                                 `make bench-uptime`
 * Each run of a row is a process of its own, pinned to a core; the server is one on another core.
 * Rows take turns, so that what disturbs the machine disturbs all. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "bench.h"
#include "trace.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define ROWS_MAX 64
#define RUNS_MAX 50

typedef struct options {
    int runs, start, is_library;        /* start: this process is timed from its start on */
    uint32_t minutes, minute_ms;
    const char *rows, *out;
} options;

/* ---- the server, in a process of its own ---- */
static int listen_anywhere(int *port)
{
    struct sockaddr_in address;
    socklen_t len = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, len) || listen(fd, 1024))
        bench_fail("cannot listen", strerror(errno));
    getsockname(fd, (struct sockaddr *)&address, &len);
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    *port = ntohs(address.sin_port);
    return fd;
}

static pid_t start_server(bench_world *world)
{
    int pair[2], listener = listen_anywhere(&world->port);
    pid_t child;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair)) bench_fail("no socket pair", strerror(errno));
    child = fork();
    if (child < 0) bench_fail("cannot fork", strerror(errno));
    if (child == 0) {
        close(pair[0]);
        world->control = pair[1];
        server_run(world, listener);
    }
    close(pair[1]);
    close(listener);
    world->control = pair[0];
    return child;
}

/* ---- one run of a row, in a process of its own ---- */
static int run_once(const bench_world *world, const bench_row *row, bench_figures *out)
{
    int ends[2], status = 0;
    ssize_t got;
    pid_t child;
    memset(out, 0, sizeof *out);
    if (pipe(ends)) bench_fail("no pipe", strerror(errno));
    child = fork();
    if (child < 0) bench_fail("cannot fork", strerror(errno));
    if (child == 0) {
        close(ends[0]);
        bench_pin(world->client_core);
        row->run(world, row, out);
        _exit(write(ends[1], out, sizeof *out) == (ssize_t)sizeof *out ? 0 : 2);
    }
    close(ends[1]);
    got = read(ends[0], out, sizeof *out);
    close(ends[0]);
    waitpid(child, &status, 0);
    if (got == (ssize_t)sizeof *out && status == 0) return 1;
    fprintf(stderr, "gwbench: row %s failed\n", row->name);
    return 0;
}

/* ---- rows that start this program again ---- */
static double start_once(const bench_world *world, const char *what, double *cpu_s)
{
    char port[16], text[32] = "";
    int ends[2], status;
    struct rusage used;
    uint64_t began_ns = bench_now_ns();
    pid_t child;
    ssize_t got;
    snprintf(port, sizeof port, "%d", world->port);
    if (pipe(ends)) bench_fail("no pipe", strerror(errno));
    child = fork();
    if (child < 0) bench_fail("cannot fork", strerror(errno));
    if (child == 0) {
        dup2(ends[1], 1);
        execl(world->self, world->self, "--start", what, "--port", port, "--certs", world->certs,
              (char *)NULL);
        _exit(2);
    }
    close(ends[1]);
    got = read(ends[0], text, sizeof text - 1);
    close(ends[0]);
    wait4(child, &status, 0, &used);
    if (got <= 0) bench_fail("a started program said nothing", what);
    *cpu_s = (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
             (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
    return (double)(strtoull(text, NULL, 10) - began_ns) / 1e9;
}

static int compare(const void *a, const void *b)
{
    double one = *(const double *)a, two = *(const double *)b;
    return (one > two) - (one < two);
}

/* mode: 1 is the library. Medians of some. */
static void run_start(const bench_world *world, const bench_row *row, bench_figures *out)
{
    double took[21], cpu[21];
    int i, count = world->quick ? 7 : 21;
    for (i = 0; i < count; i++)
        took[i] = start_once(world, row->mode ? "library" : "bare", &cpu[i]);
    qsort(took, (size_t)count, sizeof *took, compare);
    qsort(cpu, (size_t)count, sizeof *cpu, compare);
    bench_put(out, "wall_s", took[count / 2]);
    bench_put(out, "cpu_s", cpu[count / 2]);
}

/* ---- system calls, counted by ptrace ---- */
#define TRACED_POLLS 1000

static void run_syscalls(const bench_world *world, const bench_row *row, bench_figures *out)
{
    trace_counts counts;
    uint32_t i;
    double per = row->mode ? TRACED_POLLS : row->play.count;
    if (row->mode) counts = trace_idle(world, TRACED_POLLS);
    else counts = trace_stream(world, row);
    if (!counts.done) return;           /* ptrace is not allowed here: no figures */
    bench_put(out, "calls", (double)counts.all / per);
    for (i = 0; i < counts.kinds; i++) bench_put(out, counts.names[i], counts.counts[i] / per);
}

static const bench_row own_rows[] = {
    { "bare_start", run_start, 0, { 0, 0, 0, 0, 0 }, 0, 1 },
    { "start", run_start, 1, { 0, 0, 0, 0, 0 }, 0, 1 },
    { "syscalls_idle", run_syscalls, 1, { 0, 0, 0, 0, 0 }, 0, 1 },
    { "syscalls_event", run_syscalls, 0, { CORPUS_MIX, 10000, 0, 1, 0 }, 0, 1 },
    { "corpus", trace_corpus, 0, { CORPUS_MIX, 100000, 0, 1, 2 }, 0, 1 },
    { NULL, NULL, 0, { 0, 0, 0, 0, 0 }, 0, 0 }
};

/* ---- which rows ---- */
static int is_asked(const options *from, const bench_world *world, const bench_row *row)
{
    const char *at = from->rows;
    size_t len = strlen(row->name);
    if (!at) return !world->quick || row->quick_too;
    for (; at; at = strchr(at, ',')) {
        if (*at == ',') at++;
        if (strncmp(at, row->name, len) == 0 && (at[len] == 0 || at[len] == ',')) return 1;
    }
    return 0;
}

static uint32_t choose(const options *from, const bench_world *world, bench_row *out)
{
    const bench_row *const lists[] = { bare_rows, library_rows, own_rows };
    const bench_row *row;
    uint32_t i, count = 0;
    for (i = 0; i < 3; i++) {
        for (row = lists[i]; row->name; row++) {
            if (!is_asked(from, world, row)) continue;
            out[count] = *row;
            if (world->quick && row->play.count == 100000) out[count].play.count = 30000;
            count++;
        }
    }
    return count;
}

/* ---- out ---- */
static void write_run(FILE *file, const bench_figures *figures)
{
    uint32_t i;
    fprintf(file, "{");
    for (i = 0; i < figures->count; i++)
        fprintf(file, "%s\"%s\": %.9g", i ? ", " : "", figures->names[i], figures->values[i]);
    fprintf(file, "}");
}

static void write_all(const options *to, const bench_row *rows, uint32_t count,
                      const bench_figures *figures)
{
    FILE *file = to->out ? fopen(to->out, "w") : stdout;
    uint32_t i;
    int run;
    if (!file) bench_fail("cannot write", to->out);
    fprintf(file, "{\"runs\": %d, \"rows\": {\n", to->runs);
    for (i = 0; i < count; i++) {
        fprintf(file, "\"%s\": [", rows[i].name);
        for (run = 0; run < to->runs; run++) {
            if (run) fprintf(file, ", ");
            write_run(file, &figures[i * RUNS_MAX + (uint32_t)run]);
        }
        fprintf(file, "]%s\n", i + 1 < count ? "," : "");
    }
    fprintf(file, "}}\n");
    if (file != stdout) fclose(file);
}

static int run_all(const options *from, const bench_world *world)
{
    static bench_row rows[ROWS_MAX];
    bench_figures *figures = (bench_figures *)bench_new(ROWS_MAX * RUNS_MAX * sizeof *figures);
    uint32_t i, count = choose(from, world, rows);
    int run, fine = 1;
    for (run = 0; run < from->runs; run++) {
        for (i = 0; i < count; i++) {
            if (isatty(2))
                fprintf(stderr, "\rrun %d of %d: %-24s", run + 1, from->runs, rows[i].name);
            fine &= run_once(world, &rows[i], &figures[i * RUNS_MAX + (uint32_t)run]);
        }
    }
    if (isatty(2)) fprintf(stderr, "\r%60s\r", "");
    write_all(from, rows, count, figures);
    return fine;
}

/* ---- options ---- */
static int take_option(options *to, bench_world *world, const char *name, const char *value)
{
    if (strcmp(name, "--quick") == 0) { world->quick = 1; return 1; }
    if (!value) bench_fail("this option is not known, or needs a value", name);
    if (strcmp(name, "--runs") == 0) to->runs = atoi(value);
    else if (strcmp(name, "--rows") == 0) to->rows = value;
    else if (strcmp(name, "--out") == 0) to->out = value;
    else if (strcmp(name, "--certs") == 0) world->certs = value;
    else if (strcmp(name, "--port") == 0) world->port = atoi(value);
    else if (strcmp(name, "--uptime") == 0) to->minutes = (uint32_t)atoi(value);
    else if (strcmp(name, "--minute-ms") == 0) to->minute_ms = (uint32_t)atoi(value);
    else if (strcmp(name, "--start") == 0) {
        to->start = 1;
        to->is_library = strcmp(value, "library") == 0;
    } else bench_fail("this option is not known", name);
    return 2;
}

static void raise_limit(void)
{
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

static void begin_world(bench_world *world)
{
    const char *slow = getenv("GW_BENCH_SLOW_NS"), *leak = getenv("GW_BENCH_LEAK_BYTES");
    int several = sysconf(_SC_NPROCESSORS_ONLN) > 1;
    memset(world, 0, sizeof *world);
    world->certs = "tests/certs";
    world->self = "/proc/self/exe";
    world->server_core = several ? 0 : -1;
    world->client_core = several ? 1 : -1;
    world->slow_ns = slow ? (uint32_t)atoi(slow) : 0;
    world->leak_bytes = leak ? (uint32_t)atoi(leak) : 0;
}

int main(int argc, char **argv)
{
    options asked;
    bench_world world;
    pid_t server;
    int i, fine;
    memset(&asked, 0, sizeof asked);
    begin_world(&world);
    asked.runs = 5;
    asked.minute_ms = 1000;
    for (i = 1; i < argc;) i += take_option(&asked, &world, argv[i], argv[i + 1]);
    if (asked.runs < 1 || asked.runs > RUNS_MAX) bench_fail("--runs is 1 to 50", NULL);
    if (asked.start) {
        if (asked.is_library) library_start(&world);
        else bare_start(&world);
        return 0;
    }
    signal(SIGPIPE, SIG_IGN);
    raise_limit();
    server = start_server(&world);
    if (asked.minutes) fine = uptime_run(&world, asked.minutes, asked.minute_ms);
    else fine = run_all(&asked, &world);
    close(world.control);
    waitpid(server, NULL, 0);
    return !fine;
}
