/* gateway_sim.h -- a Discord Gateway of our own, stricter than Discord, for tests.
 *
 * The pure core: bytes and time in, bytes out.  No sockets, no TLS, no clock, no globals; all chance
 * comes from sim_config.seed, so a run repeats exactly.  It knows nothing of discord_gateway.h.
 *
 *   sim_config config;
 *   sim_config_init(&config);
 *   config.log = my_log;
 *   gateway = sim_new(&config, now_ms);
 *   conn = sim_accept(gateway, now_ms);                        a client has connected
 *   sim_receive(conn, bytes, len, now_ms);                     what it sent (HTTP, then WebSocket)
 *   bytes = sim_output(conn, &len); ...; sim_output_taken(conn, len);    what it is to be sent
 *   sim_tick(gateway, now_ms);                                 at sim_next_ms(gateway) or earlier
 *   switch (sim_connection_state(conn)) ...                    after each of these calls
 *   sim_hangup(conn, now_ms);                                  TCP is gone, whoever ended it
 *
 * Memory is the C heap; when there is none left the program is ended with a sentence.
 * One gateway is used by one thread at a time; several are independent.  Rules, faults and the script
 * language: README.md. */
#ifndef GATEWAY_SIM_H
#define GATEWAY_SIM_H
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sim_gateway sim_gateway;
typedef struct sim_connection sim_connection;

#define SIM_NEVER UINT64_MAX        /* sim_next_ms: nothing is planned */
#define SIM_RATE_FLOOD (-1.0)       /* event_rate: as many events as the client takes */

typedef struct sim_config {
    uint64_t seed;
    const char *token;              /* the only right one; NULL: any that has no "Bot " before it */
    const char *url;                /* what /gateway answers; "wss://gateway.sim" */
    const char *resume_url;         /* resume_gateway_url in READY; NULL: url + "/resume" */
    uint64_t interval_ms;           /* heartbeat_interval in Hello; 41250 */
    uint64_t heartbeat_grace_ms;    /* a beat is missed after 1.5 intervals and this; 5000 */
    double event_rate;              /* generated events per second and session; 0: none; or SIM_RATE_FLOOD */
    uint32_t guilds;                /* guilds of the bot, over all shards; 3 */
    uint32_t members;               /* members of each guild; 1500 */
    uint64_t session_ttl_ms;        /* a session without a connection lives this long; 180000 */
    uint32_t replay_events;         /* a session keeps at most so many events ... */
    size_t replay_bytes;            /* ... of so many bytes for Resume; 100000, 64 MiB */
    uint32_t shards;                /* recommended by /gateway/bot; 1 */
    uint32_t required_shards;       /* a smaller shard count gets 4011; 1 */
    uint32_t max_concurrency;       /* Identify per bucket: one per identify_window_ms; 1 */
    uint64_t identify_window_ms;    /* 5000 */
    uint32_t total, remaining;      /* session_start_limit; 1000, 1000 */
    uint64_t reset_after_ms;        /* 86400000 */
    uint32_t denied_intents;        /* privileged bits that get 4014; 0 */
    uint32_t payloads_per_minute;   /* 120 */
    uint64_t payload_window_ms;     /* 60000 */
    uint64_t leave_grace_ms;        /* after op 7 or op 9 the client is to leave within; 10000 */
    uint64_t close_linger_ms;       /* the wait for the answer to our close frame; 3000 */
    size_t high_water;              /* events are put out while less than this is pending; 256 KiB */
    uint32_t strict_presence;       /* 1: the sixth presence in 20 s is closed with 4008, not only logged */
    uint32_t strict_resume_url;     /* 1: a Resume elsewhere than on its resume URL gets op 9 false */
    uint32_t expired_4009;          /* 1: Resume of an expired session is closed with 4009, not op 9 false */
    uint32_t any_user_agent;        /* 1: a User-Agent other than "DiscordBot (url, version)" is no violation */
    uint32_t quiet_dispatch;        /* 1: dispatched events are not logged one by one */
    void (*log)(void *user, const char *json_line);     /* one JSON object, no newline; NULL: none */
    uint64_t (*now_us)(void *user);                     /* for "sent_us" of events; NULL: now_ms * 1000 */
    void *user;
} sim_config;

typedef enum sim_state {
    SIM_OPEN,                       /* read and write */
    SIM_FROZEN,                     /* neither read nor write, and keep TCP open */
    SIM_WANTS_CLOSE,                /* send what is pending, TLS close_notify, FIN; linger; sim_hangup */
    SIM_WANTS_CUT,                  /* send what is pending, then FIN without close_notify; sim_hangup */
    SIM_WANTS_RESET                 /* RST at once, pending bytes dropped; sim_hangup */
} sim_state;

typedef struct sim_stats {
    uint64_t connections, requests, upgrades, identifies, resumes, ready, resumed, heartbeats, payloads,
             dispatched, violations;
} sim_stats;

void sim_config_init(sim_config *config);                               /* the defaults named above */
sim_gateway *sim_new(const sim_config *config, uint64_t now_ms);        /* copies config and its texts */
void sim_free(sim_gateway *gateway);                                    /* with its connections */
const sim_stats *sim_get_stats(const sim_gateway *gateway);

sim_connection *sim_accept(sim_gateway *gateway, uint64_t now_ms);
void sim_receive(sim_connection *conn, const uint8_t *bytes, size_t len, uint64_t now_ms);
/* bytes that sim_output would give by and by; 0 while frozen */
size_t sim_pending(const sim_connection *conn);
/* valid until the next call with this connection */
const uint8_t *sim_output(sim_connection *conn, size_t *len);
void sim_output_taken(sim_connection *conn, size_t len);
sim_state sim_connection_state(const sim_connection *conn);
uint64_t sim_connection_id(const sim_connection *conn);         /* 1, 2, ...: "conn" in the log */
/* NULL: the first; NULL at the end */
sim_connection *sim_next_connection(sim_gateway *gateway, sim_connection *after);
void sim_hangup(sim_connection *conn, uint64_t now_ms);         /* frees it */

void sim_tick(sim_gateway *gateway, uint64_t now_ms);
uint64_t sim_next_ms(const sim_gateway *gateway);               /* when it next wants sim_tick; SIM_NEVER */

/* A fault or an action, at once: "cut", "close 4000 bye", "op9 false", "next 2 http 503" ...
 *   conn     NULL: all connections (what concerns the gateway as a whole is done once)
 *   Returns  1, or 0 with a sentence in why (may be NULL) */
int sim_command(sim_gateway *gateway, sim_connection *conn, const char *text, uint64_t now_ms,
                char *why, size_t cap);

/* Lines of a script; "at" and "every" count from now_ms.  Returns 0, or the number of the bad line with why. */
int sim_script(sim_gateway *gateway, const char *text, uint64_t now_ms, char *why, size_t cap);

#ifdef __cplusplus
}
#endif
#endif
