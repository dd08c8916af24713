/* trace.h -- what a row's process asks of the kernel, call by call; and what the corpus is. */
#ifndef BENCH_TRACE_H
#define BENCH_TRACE_H
#include "bench.h"

#define TRACE_KINDS_MAX 16

typedef struct trace_counts {
    int done;                   /* 0: ptrace is not allowed here */
    uint64_t all;
    uint32_t kinds;
    char names[TRACE_KINDS_MAX][32];
    double counts[TRACE_KINDS_MAX];
} trace_counts;

/* System calls of the library's thread while it takes a stream, or polls with nothing to do. */
trace_counts trace_stream(const bench_world *world, const bench_row *row);
trace_counts trace_idle(const bench_world *world, uint32_t polls);

/* The row "corpus": bytes and tokens an event, on average. */
void trace_corpus(const bench_world *world, const bench_row *row, bench_figures *out);

/* In library.c: the work, between two calls of getppid(), which nothing else calls. */
void library_trace_stream(const bench_world *world, const bench_row *row);
void library_trace_idle(const bench_world *world, uint32_t polls);

#endif
