/* bench.h -- what the parts of gwbench share: the world a row runs in, its figures, orders to the
 * server. */
#ifndef BENCH_H
#define BENCH_H
#include "corpus.h"
#include <bearssl.h>
#include <stddef.h>
#include <stdint.h>

#define BENCH_TOKEN "MTA5ODc2NTQzMjEwOTg3NjU0Mw.bench.only"

/* ---- the world: main, server and rows are processes of their own; a row sees this ---- */
typedef struct bench_world {
    int control;                /* to the server: bench_ask() */
    int port;
    int server_core, client_core;       /* -1: not pinned */
    const char *certs;          /* folder of tests/certs */
    const char *self;           /* this program, to start it again */
    uint32_t quick;             /* 1: CI's reduced run */
    /* So that it can be seen to fail: burnt for each event, lost in each minute of uptime. */
    uint32_t slow_ns, leak_bytes;       /* GW_BENCH_SLOW_NS, GW_BENCH_LEAK_BYTES */
} bench_world;

/* ---- figures of one run of one row ---- */
#define BENCH_FIGURES_MAX 32
typedef struct bench_figures {
    uint32_t count;
    char names[BENCH_FIGURES_MAX][32];
    double values[BENCH_FIGURES_MAX];
} bench_figures;

void bench_put(bench_figures *to, const char *name, double value);

/* Ends this process with a sentence: a row that cannot be measured is no figure. */
void bench_fail(const char *what, const char *about);

uint64_t bench_now_ns(void);
uint64_t bench_cpu_ns(void);            /* of this process, all threads */
uint64_t bench_thread_cpu_ns(void);
void bench_burn(uint32_t ns);
void bench_pin(int core);
uint64_t bench_private_bytes(void);     /* written to: Private_Dirty of /proc/self/smaps_rollup */
uint64_t bench_status_bytes(const char *field);     /* of /proc/self/status, e.g. "VmRSS:" */
void bench_reset_peak(void);            /* of "VmHWM:" */
void *bench_new(size_t bytes);

/* ---- orders: what plays goes to the connection that said Identify or Resume last ---- */
enum bench_verb {
    BENCH_SETUP,                /* of later connections: heartbeat interval, no TLS session cache */
    BENCH_PREPARE,              /* makes and encrypts a corpus; nothing leaves until BENCH_GO */
    BENCH_GO,
    BENCH_REPORT,               /* the server's CPU time from BENCH_GO to the last byte */
    BENCH_RECONNECT,            /* op 7 */
    BENCH_INVALIDATE,           /* op 9 with false */
    BENCH_DROP,                 /* TCP ends without a word */
    BENCH_QUIT
};

typedef struct bench_order {
    uint32_t verb;
    uint32_t interval_ms, no_cache;     /* BENCH_SETUP */
    uint32_t record_an_event;           /* BENCH_PREPARE: else records of 16 KiB */
    corpus_ask play;                    /* first_seq is the server's to choose */
} bench_order;

typedef struct bench_answer {
    uint32_t done;              /* 0: there was no such connection */
    uint32_t beats;             /* heartbeats since the start */
    uint64_t events, json_bytes, plain_bytes;
    double cpu_s;               /* BENCH_REPORT */
} bench_answer;

/* Waits for the answer; ends the program where there is none. */
bench_answer bench_ask(const bench_world *world, const bench_order *order);
bench_answer bench_tell(const bench_world *world, uint32_t verb);

/* Never returns. */
void server_run(const bench_world *world, int listener);

/* ---- PEM files of tests/certs ---- */
typedef struct pem_object { char name[32]; uint8_t *bytes; size_t len; } pem_object;

/* Reads up to max objects; ends the program where the file is not good. Never freed. */
size_t pem_read(const bench_world *world, const char *file, pem_object *out, size_t max);

/* ---- the bare loop ---- */
typedef struct bare bare;

/* From nothing to READY, or only to the answer "101" where until_101 is set.
 *   resume    session to begin with, and filled in again; NULL: a full handshake */
bare *bare_open(const bench_world *world, int until_101, br_ssl_session_parameters *resume);
void bare_wait(bare *it);               /* until bytes are there */
/* Reads, decrypts and drops this many plain bytes; ahead: through a buffer of 64 KiB. */
void bare_drop(bare *it, uint64_t bytes, int how);
void bare_close(bare *it);

/* ---- rows ---- */
typedef struct bench_row {
    const char *name;
    void (*run)(const bench_world *world, const struct bench_row *row, bench_figures *out);
    uint32_t mode;              /* the row's own */
    corpus_ask play;
    uint32_t record_an_event;
    uint32_t quick_too;         /* runs in the reduced run */
} bench_row;

extern const bench_row bare_rows[], library_rows[];     /* end with a name of NULL */

/* --start bare|library: prints the time of READY. --uptime: 1 if memory did not grow. */
void bare_start(const bench_world *world);
void library_start(const bench_world *world);
int uptime_run(const bench_world *world, uint32_t minutes, uint32_t minute_ms);

#endif
