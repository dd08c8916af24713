/* trace.c -- counts system calls by ptrace, as strace -c does, but only between two marks; counts
 * the corpus' tokens by jsmn. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "trace.h"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#if defined __GNUC__
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#pragma GCC diagnostic ignored "-Wunused-function"
#endif
#define JSMN_STATIC
#define JSMN_STRICT
#define JSMN_PARENT_LINKS
#include <jsmn.h>
#if defined __GNUC__
#pragma GCC diagnostic pop
#endif

static const char *call_name(uint64_t number, char out[32])
{
    switch (number) {
    case SYS_read: return "read";
    case SYS_write: return "write";
    case SYS_recvfrom: return "recv";
    case SYS_sendto: return "send";
    case SYS_getrandom: return "getrandom";
    case SYS_clock_gettime: return "clock_gettime";
    case SYS_epoll_ctl: return "epoll_ctl";
#ifdef SYS_epoll_wait
    case SYS_epoll_wait: return "epoll_wait";
#endif
    case SYS_epoll_pwait: return "epoll_wait";
    case SYS_timerfd_settime: return "timerfd_settime";
    case SYS_brk: return "brk";
    case SYS_mmap: return "mmap";
    case SYS_munmap: return "munmap";
    default: break;
    }
    snprintf(out, 32, "call_%u", (unsigned)number);
    return out;
}

static void count_call(trace_counts *to, uint64_t number)
{
    char unnamed[32];
    const char *name = call_name(number, unnamed);
    uint32_t i;
    to->all++;
    for (i = 0; i < to->kinds && strcmp(to->names[i], name) != 0; i++) { }
    if (i == TRACE_KINDS_MAX) return;
    if (i == to->kinds) snprintf(to->names[to->kinds++], sizeof to->names[0], "%s", name);
    to->counts[i]++;
}

/* Follows the child from its first stop to its end. */
static trace_counts follow(pid_t child)
{
    struct __ptrace_syscall_info info;
    trace_counts counts;
    int status, inside = 0;
    memset(&counts, 0, sizeof counts);
    waitpid(child, &status, 0);
    if (!WIFSTOPPED(status) ||
        ptrace(PTRACE_SETOPTIONS, child, NULL, (void *)(PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL)))
        return counts;
    for (;;) {
        long deliver = WSTOPSIG(status) == (SIGTRAP | 0x80) || WSTOPSIG(status) == SIGSTOP
                           ? 0 : WSTOPSIG(status);
        if (ptrace(PTRACE_SYSCALL, child, NULL, (void *)deliver)) break;
        if (waitpid(child, &status, 0) != child || !WIFSTOPPED(status)) break;
        if (WSTOPSIG(status) != (SIGTRAP | 0x80)) continue;
        if (ptrace(PTRACE_GET_SYSCALL_INFO, child, (void *)sizeof info, &info) <= 0) break;
        if (info.op != PTRACE_SYSCALL_INFO_ENTRY) continue;
        if (info.entry.nr == SYS_getppid) {
            counts.done = inside;       /* the second mark was reached */
            inside = !inside;
        } else if (inside) {
            count_call(&counts, info.entry.nr);
        }
    }
    return counts;
}

static pid_t begin_child(void)
{
    pid_t child = fork();
    if (child) return child;
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL)) _exit(0);
    raise(SIGSTOP);
    return 0;
}

trace_counts trace_stream(const bench_world *world, const bench_row *row)
{
    pid_t child = begin_child();
    if (child) return follow(child);
    library_trace_stream(world, row);
    _exit(0);
}

trace_counts trace_idle(const bench_world *world, uint32_t polls)
{
    pid_t child = begin_child();
    if (child) return follow(child);
    library_trace_idle(world, polls);
    _exit(0);
}

/* ---- the corpus ---- */
static unsigned count_tokens(const char *json, size_t len)
{
    static jsmntok_t tokens[4096];
    jsmn_parser parser;
    int count;
    jsmn_init(&parser);
    count = jsmn_parse(&parser, json, len, tokens, sizeof tokens / sizeof *tokens);
    if (count < 0) bench_fail("the corpus is not JSON", NULL);
    return (unsigned)count;
}

void trace_corpus(const bench_world *world, const bench_row *row, bench_figures *out)
{
    corpus made;
    const char *json;
    size_t at = 0, len;
    double tokens = 0, bytes = 0;
    uint64_t i;
    (void)world;
    corpus_build(&made, &row->play);
    for (i = 0; i < made.events && corpus_next(&made, &at, &json, &len); i++) {
        tokens += count_tokens(json, len);
        bytes += (double)len;
    }
    bench_put(out, "bytes_an_event", bytes / (double)made.events);
    bench_put(out, "tokens_an_event", tokens / (double)made.events);
    corpus_free(&made);
}
