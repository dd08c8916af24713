/* corpus.h -- what the benchmark's server plays: dispatches as Discord sends them, from a seed.
 * The mix is that of a bot with all intents in busy guilds: half PRESENCE_UPDATE, a fifth
 * MESSAGE_CREATE, a seventh TYPING_START; 811 bytes and 73 JSON tokens each on average, the
 * envelope included (`gwbench --rows corpus`). */
#ifndef BENCH_CORPUS_H
#define BENCH_CORPUS_H
#include <stddef.h>
#include <stdint.h>

enum corpus_kind { CORPUS_MIX, CORPUS_GUILDS };

typedef struct corpus_ask {
    uint32_t kind;              /* enum corpus_kind */
    uint32_t count;             /* of events, or GUILD_CREATEs; a WEBHOOKS_UPDATE more is the end */
    uint64_t guild_bytes;       /* of one GUILD_CREATE */
    uint64_t seed, first_seq;
} corpus_ask;

/* WebSocket frames, one an event, one behind the other. */
typedef struct corpus {
    uint8_t *bytes;
    size_t len, cap;
    uint64_t events;            /* without the WEBHOOKS_UPDATE */
    uint64_t json_bytes;        /* without frame headers */
} corpus;

/* Ends the program where there is no memory. The caller frees with corpus_free(). */
void corpus_build(corpus *out, const corpus_ask *ask);
void corpus_free(corpus *it);

/* The next frame's payload: begin with *at 0.  0: the end. */
int corpus_next(const corpus *it, size_t *at, const char **json, size_t *len);

/* The frame's whole length, header included, from its first bytes. */
size_t corpus_frame_len(const uint8_t *frame, size_t *header_len);

#endif
