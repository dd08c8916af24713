/* tools.c -- clocks, cores, memory as the system sees it, orders, PEM. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE             /* sched_setaffinity */
#endif
#include "bench.h"
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

void bench_fail(const char *what, const char *about)
{
    fprintf(stderr, "gwbench: %s%s%s\n", what, about && *about ? ": " : "", about ? about : "");
    exit(2);
}

void *bench_new(size_t bytes)
{
    void *fresh = calloc(1, bytes);
    if (!fresh) bench_fail("no memory", NULL);
    return fresh;
}

void bench_put(bench_figures *to, const char *name, double value)
{
    if (to->count == BENCH_FIGURES_MAX) bench_fail("too many figures", name);
    snprintf(to->names[to->count], sizeof to->names[0], "%s", name);
    to->values[to->count++] = value;
}

/* ---- clocks ---- */
static uint64_t read_clock(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t bench_now_ns(void) { return read_clock(CLOCK_MONOTONIC); }
uint64_t bench_cpu_ns(void) { return read_clock(CLOCK_PROCESS_CPUTIME_ID); }
uint64_t bench_thread_cpu_ns(void) { return read_clock(CLOCK_THREAD_CPUTIME_ID); }

void bench_burn(uint32_t ns)
{
    uint64_t until = bench_now_ns() + ns;
    while (ns && bench_now_ns() < until) { }
}

void bench_pin(int core)
{
    cpu_set_t set;
    if (core < 0) return;
    CPU_ZERO(&set);
    CPU_SET((size_t)core, &set);
    if (sched_setaffinity(0, sizeof set, &set))
        fprintf(stderr, "gwbench: core %d cannot be had: %s\n", core, strerror(errno));
}

/* ---- memory ---- */

/* Sum of "NAME: n kB" lines of a file of /proc, for a name that ends with its colon. */
static uint64_t proc_bytes(const char *path, const char *name)
{
    char line[256];
    uint64_t sum = 0;
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    while (fgets(line, sizeof line, file))
        if (strncmp(line, name, strlen(name)) == 0)
            sum += strtoull(line + strlen(name), NULL, 10) * 1024u;
    fclose(file);
    return sum;
}

/* What was written to. Pages of code count as private too while nobody else runs them, but they belong
 * to no connection, and whether somebody does changes from run to run. */
uint64_t bench_private_bytes(void)
{
    return proc_bytes("/proc/self/smaps_rollup", "Private_Dirty:");
}

uint64_t bench_status_bytes(const char *field) { return proc_bytes("/proc/self/status", field); }

void bench_reset_peak(void)
{
    int fd = open("/proc/self/clear_refs", O_WRONLY);
    if (fd < 0) return;
    if (write(fd, "5", 1) != 1) fprintf(stderr, "gwbench: the peak cannot be reset\n");
    close(fd);
}

/* ---- orders ---- */
bench_answer bench_ask(const bench_world *world, const bench_order *order)
{
    bench_answer answer;
    if (send(world->control, order, sizeof *order, 0) != (ssize_t)sizeof *order)
        bench_fail("the server takes no order", strerror(errno));
    if (recv(world->control, &answer, sizeof answer, 0) != (ssize_t)sizeof answer)
        bench_fail("the server does not answer", strerror(errno));
    if (!answer.done) bench_fail("the server has no such connection", NULL);
    return answer;
}

bench_answer bench_tell(const bench_world *world, uint32_t verb)
{
    bench_order order;
    memset(&order, 0, sizeof order);
    order.verb = verb;
    return bench_ask(world, &order);
}

/* ---- PEM ---- */
static void add_bytes(void *context, const void *bytes, size_t len)
{
    pem_object *object = (pem_object *)context;
    object->bytes = (uint8_t *)realloc(object->bytes, object->len + len);
    if (!object->bytes) bench_fail("no memory", NULL);
    memcpy(object->bytes + object->len, bytes, len);
    object->len += len;
}

static size_t read_text(const bench_world *world, const char *file, char *out, size_t cap)
{
    char path[1024];
    FILE *opened;
    size_t len;
    snprintf(path, sizeof path, "%s/%s", world->certs, file);
    opened = fopen(path, "rb");
    if (!opened) bench_fail("cannot open (run in the repository's root, or say --certs)", path);
    len = fread(out, 1, cap, opened);
    fclose(opened);
    return len;
}

size_t pem_read(const bench_world *world, const char *file, pem_object *out, size_t max)
{
    br_pem_decoder_context pem;
    char text[16384];
    size_t len = read_text(world, file, text, sizeof text), at = 0, count = 0;
    br_pem_decoder_init(&pem);
    while (at < len) {
        at += br_pem_decoder_push(&pem, text + at, len - at);
        switch (br_pem_decoder_event(&pem)) {
        case BR_PEM_BEGIN_OBJ:
            if (count == max) bench_fail("too much in this file", file);
            memset(&out[count], 0, sizeof out[count]);
            snprintf(out[count].name, sizeof out[count].name, "%.31s", br_pem_decoder_name(&pem));
            br_pem_decoder_setdest(&pem, add_bytes, &out[count]);
            break;
        case BR_PEM_END_OBJ: count++; break;
        case BR_PEM_ERROR: bench_fail("not a good PEM file", file); break;
        default: break;
        }
    }
    return count;
}
