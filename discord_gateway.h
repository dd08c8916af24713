/* discord_gateway.h 0.1.0 -- a Discord Gateway client in one header, for programs that have a loop.
 * Licence: MIT; the text is at the end of the file.
 *
 * 1. WHAT IT IS
 *
 *    It holds Discord Gateway connections (API v10, JSON) for a program that already exists: a game
 *    server, a daemon, a small board, the host of a script. Your loop calls gw_poll(). That never
 *    blocks, keeps the heartbeats, reconnects and resumes by itself, and returns the next event.
 *    There is no callback to fear, no global state, nothing that ends your program.
 *
 *    It is the Gateway only. It sends no chat message (that is Discord's HTTP API: use libcurl, or
 *    what you have), keeps no cache, speaks no voice, and never decides what an event means.
 *
 * 2. DO THIS
 *
 *    In one C or C++ file define DISCORD_GATEWAY_IMPLEMENTATION before the #include; in all others
 *    include it without. It needs BearSSL 0.6 (TLS) and jsmn 1.1 (JSON), on Debian and Ubuntu
 *    `apt-get install libbearssl-dev libjsmn-dev`, and is linked like this:
 *
 *        cc bot.c -o bot -lbearssl -lpthread
 *
 *    With -std=c99 add -D_DEFAULT_SOURCE, since the sockets of POSIX are not in C99. The program:
 *
 *        #define DISCORD_GATEWAY_IMPLEMENTATION
 *        #include "discord_gateway.h"
 *        #include <stdio.h>
 *        #include <stdlib.h>
 *
 *        int main(void)
 *        {
 *            gw_config cfg = GW_INIT;
 *            const gw_event *ev;
 *            gw_client *gw;
 *            cfg.token   = getenv("DISCORD_TOKEN");
 *            cfg.intents = GW_INTENT_GUILDS | GW_INTENT_GUILD_MESSAGES | GW_INTENT_MESSAGE_CONTENT;
 *            gw = gw_open(&cfg);
 *            while ((ev = gw_wait(gw, GW_FOREVER)) != NULL) {
 *                if (ev->type == GW_MESSAGE_CREATE && gw_is(&ev->d, "content", "!ping"))
 *                    printf("ping in channel %llu\n",
 *                           (unsigned long long)gw_u64(&ev->d, "channel_id"));
 *                if (ev->message[0]) fprintf(stderr, "%s: %s\n", ev->name, ev->message);
 *            }
 *            gw_close(gw);
 *            return 0;
 *        }
 *
 *    A wrong token, a missing network, an expired certificate: each comes out as an event with a
 *    sentence in ev->message. gw_open() is NULL only when there is no memory.
 *
 * 3. GW_POLL, GW_WAIT, GW_TEND
 *
 *    gw_poll(gw)          the next event, or NULL: this turn is over. A game calls it once a frame:
 *                             while ((ev = gw_poll(gw)) != NULL) handle(ev);
 *                         That ends by itself, in a burst too: a turn has one budget over all its
 *                         calls (config.turn_bytes, 64 KiB; config.turn_us, 1,000 us). One step of
 *                         a TLS handshake cannot be split: about 1 ms on a PC, more on a board.
 *    gw_wait(gw, ms)      the same, but sleeps in the kernel until there is an event or the time is
 *                         up. gw_wait(gw, GW_FOREVER) is NULL only when the client has ended.
 *    gw_tend(gw)          heartbeats, sends and ACKs only, while the event in hand stays valid: for
 *                         handlers that take seconds, for loading screens.
 *    In a loop of your own (epoll, libuv, GLib, Qt) add gw_fd(gw) for reading: it is readable exactly
 *    while gw_poll() has work, timers included, so there is nothing else to ask. With select() or
 *    poll(): gw_pollfds() and gw_timeout_ms(), each round.
 *
 *    What may block all the same: reading a CA file (at the first connect, and after it changed),
 *    and the system's resolver where it may not have a thread (GW_NO_THREADS, config.memory) and
 *    config.resolve is not set.
 *
 *    Who does not poll does not beat: after about a minute Discord closes. The next poll says
 *    POLLED_LATE or DISCONNECTED, and the session is resumed; no event is lost for it.
 *
 * 4. EVENTS
 *
 *    One struct for all. type < GW_GATEWAY_INFO is a dispatch of Discord's, by its documented name
 *    (GW_UNKNOWN_DISPATCH for what this version does not know: ev->name has it), with its body in
 *    ev->d. The rest are the library's own notices, each with a sentence in ev->message.
 *
 *    An event and all it points to live until the next gw_poll(), gw_wait() or gw_close(). Keep what
 *    you need by copying it: gw_text(), or ptr and len of a gw_json.
 *
 *    JSON is read by path: gw_u64(&ev->d, "author.id"), gw_text(&ev->d, "content", out, sizeof out),
 *    gw_pick() for several at once, gw_next() to walk through an array or object. A path that is not
 *    there reads as absent, "" or 0, never as a crash. Ids are 64-bit numbers; they never pass
 *    through a double.
 *
 *    READY and RESUMED both mean ready. After a Resume the missed events come with replayed 1, then
 *    RESUMED. SESSION_LOST means that events are gone: refetch what you keep. A dispatch may come
 *    twice after a restart from a saved session, never within one process.
 *
 * 5. WHAT IT DOES BY ITSELF
 *
 *    Heartbeats with jitter; a dead connection is noticed when a beat was not answered by the next.
 *    After every end that leaves the session alive it resumes: at once, then after 1, 2, 4 ... 60 s
 *    with jitter; the wait is forgotten at READY or RESUMED. A Resume goes to the session's own URL,
 *    after a failed connect in turn to the one that /gateway/bot named. Three Resumes without a
 *    RESUMED, or an op 9 with false, lead to a new Identify. Each end is a DISCONNECTED event that
 *    says why, what comes next (ev->will) and when (ev->in_ms).
 *
 *    It stops by itself only where going on would harm: a wrong token (4004), bad intents (4013,
 *    4014), shards that do not fit (4011), a config that makes no sense. Then FATAL comes with a
 *    sentence, then CLOSED. An invalid shard (4010) is SHARD_STOPPED while others run.
 *
 *    An Identify is precious: 1,000 a day, then Discord resets the token. So /gateway/bot is asked
 *    first, they are counted, one goes out every 5.5 s at most (per bucket of max_concurrency), the
 *    count travels in the session text, so that a crash loop does not burn them, and at 0 the library
 *    waits: IDENTIFY_HELD says how long.
 *
 *    A machine that was suspended resumes at once when it wakes; a loop that came late hears
 *    POLLED_LATE, and how late. At GW_LOG_TRACE the log hook gets each payload as a line, "> {...}"
 *    sent or "< {...}" received, without tokens and session ids.
 *
 * 6. COMMANDS AND THEIR LIMITS
 *
 *    gw_set_presence, gw_set_voice, gw_request_members, gw_request_sounds, gw_request_channel_info,
 *    and gw_send_raw for what Discord adds. A command is checked, queued and answered at once with a
 *    ticket (> 0) or a gw_result (< 0), and gw_why() has the sentence. One that names a guild finds
 *    its shard. Commands wait until READY or RESUMED, outlive reconnects and new sessions, and are
 *    never sent twice; one that could not be sent comes back as COMMAND_DROPPED with its ticket.
 *
 *        120 payloads in 60 s a connection, heartbeats included: 117 are yours at the usual interval,
 *            the rest wait; never fewer than 110
 *        4,096 bytes a payload; 64 commands waiting a shard (max_queued), for 5 minutes (max_queued_ms)
 *        5 presences in 20 s: only the newest goes out; an Identify carries it, a Resume keeps it
 *        1 whole list of members a guild in 30 s, others pass meanwhile; 100 user_ids; nonce 32 bytes
 *
 *    RATE_LIMITED bears the ticket of the command that Discord refused, and in_ms; with
 *    gw_members.retry it is sent again once that time has come. A request for members whose answer
 *    died with the session comes back as well.
 *
 * 7. SESSIONS
 *
 *    gw_session_save() writes a small text (GW_SESSION_MAX bytes a shard at most) without the token.
 *    Give it to the next start as config.session, and the bot goes on where it was: no Identify is
 *    spent, and what was missed comes first. The text names the last event that was taken, which is
 *    the one before the event in hand; gw_ack() confirms the one in hand too. With ack_by_hand only
 *    gw_ack() counts. Save it at READY, at IDENTIFYING (it carries the Identify budget) and every few
 *    seconds: after a crash what came behind it comes again.
 *
 *    gw_stop(gw, GW_KEEP) leaves the session resumable for a few minutes, as do gw_close(), a crash
 *    and a hot reload. Only gw_stop(gw, GW_END) ends it: the bot is offline at once (one that is just
 *    reconnecting has nobody to tell; its session ends by itself after some minutes).
 *
 *    Shards: a bot in 2,500 guilds needs several. config.shard_first, shard_count and shard_total run
 *    a range of them in one client; GW_ALL as many as Discord advises; a count of 0 none, until
 *    gw_shard_start(), for fleets that hand shards around. They identify in the order of their ids,
 *    max_concurrency at a time. One slow reader's burst starves no other: each has its turn. To
 *    change the total, run a second client with the new one and the same config.identify_gate, and
 *    stop the first when gw_shard_live(second, GW_ALL) is 1: examples/reshard.c.
 *
 * 8. ERRORS
 *
 *    Calls answer with enum gw_result; gw_why(gw) is the sentence. What comes later comes as an
 *    event: ev->reason is enum gw_reason, ev->close_code Discord's close code or an HTTP status,
 *    ev->message what happened, with whom, and what to check. The token is in no text, ever.
 *
 *    "not yet valid": a board's clock stands at 1970. Set the clock, or config.unix_time to a source
 *    of time, or config.unix_time_floor to the time of your build: certificates are then checked
 *    against that, and one that has expired since then can still pass.
 *    "not trusted": config.ca_file or ca_pem names the CA. Verification cannot be switched off.
 *
 * 9. TRUST
 *
 *    In this order: config.trust_anchors (br_x509_trust_anchor), ca_pem, ca_file; else the system:
 *    SSL_CERT_FILE alone if it is set, the well-known bundles; else, compiled with
 *    GW_BUNDLED_ROOTS, the few roots that Discord's hosts chain to. A file that changed on disk is
 *    read again at the next connect. TLS 1.2 with AES-GCM or ChaCha20-Poly1305 and ECDHE, nothing
 *    weaker. ws:// without TLS is for this machine's own hosts only, since the token travels in it.
 *
 * 10. MEMORY
 *
 *    About 48 KiB for a client with one live shard, TLS included, and the payload in hand; a large
 *    buffer is given back after a large payload. Nothing that a peer sends grows without a maximum:
 *    a payload above config.max_payload (64 MiB) is passed over as it streams in and comes out as
 *    SKIPPED; its sequence number counts, the session lives on. gw_want(gw, type, 0) does the same to
 *    dispatches that you never read.
 *
 *    config.alloc is your allocator. Or give config.memory one block of gw_memory_needed() bytes:
 *    then all of it comes out of there, there is no thread, certificates come from memory
 *    (trust_anchors, ca_pem, bundled roots), and a payload that does not fit is SKIPPED.
 *
 * 11. THREADS
 *
 *    One client, one thread at a time; several clients do not know of each other. gw_wake() may be
 *    called from any thread and any signal handler; it comes out as WOKEN. The JSON readers keep no
 *    state: use them anywhere, on any text; slices of an event in hand belong to the client's thread.
 *    Inside a hook (log, alloc, transport ...) only gw_wake() may be called.
 *
 *    getaddrinfo() runs in a helper thread. It may outlive gw_close() by the time that the system's
 *    resolver takes, so do not unload the code (dlclose) in that time; with config.resolve or
 *    GW_NO_THREADS there is no thread.
 *
 * 12. MACROS, defined before the implementation is included
 *
 *    GW_NO_THREADS        no helper thread: DNS blocks, unless config.resolve is set
 *    GW_NO_EPOLL          poll() in place of epoll on Linux; gw_fd() is -1 then, as on other systems
 *    GW_BUNDLED_ROOTS     compile the few roots in, for systems without a CA bundle
 *    GW_MAX_TOKENS        65,536: JSON tokens of an event kept for look-ups, 20 bytes each; larger
 *                         events are walked through without (256 with config.memory)
 *    GW_NO_SIMD           no SSE2 where the compiler has it: the portable code, which reads the same
 *    GW_API_URL           "https://discord.com": where /api/v10/gateway/bot is asked
 *    GW_API               linkage of the public functions; `static` makes them private to one file
 *    GW_ASSERT(x)         nothing: a check of our own promises, never of what came from outside
 *    GW_JSMN_HEADER       <jsmn.h>: where jsmn is
 *
 * 13. LIMITS OF THIS VERSION
 *
 *    Refused with a sentence: config.proxy, config.compress. Linux and other POSIX systems. READY must
 *    fit into max_payload: a skipped READY leaves a session that works, but cannot be resumed.
 *
 * 14. FURTHER READING
 *
 *    README.md; examples/tail.c, a program with all of this in it; https://docs.discord.com, topics
 *    "Gateway" and "Gateway Events"; RFC 6455 (WebSocket). In this file: grep '>> room'.
 */
#if defined DISCORD_GATEWAY_IMPLEMENTATION && defined __STRICT_ANSI__ && !defined _WIN32 && \
    !defined _DEFAULT_SOURCE && !defined _FEATURES_H
#define _DEFAULT_SOURCE 1       /* sockets are not in C99; works only before the first system header */
#endif
#ifndef DISCORD_GATEWAY_H
#define DISCORD_GATEWAY_H

#ifndef GW_FFI      /* "cc -E -P -DGW_FFI" of this part is what LuaJIT's ffi.cdef and Python's cffi read */
#include <stddef.h>
#include <stdint.h>
#endif
#ifndef GW_API
#define GW_API extern
#define GW__API_IS_SHARED 1
#endif
#ifdef __cplusplus
#define GW_INIT {}  /* gw_config cfg = GW_INIT;  ({0} warns in C++ under -Wextra, {} is not C99) */
extern "C" {
#else
#define GW_INIT {0}
#endif
#define GW__ENUM(name, value, text) GW_##name = value,
typedef struct gw_client gw_client;

/* ---- version, results ------------------------------------------------------------------------- */
#define GW_VERSION 0x00000100u      /* major << 16 | minor << 8 | patch of this header */
#define GW_VERSION_TEXT "0.1.0"
GW_API uint32_t gw_version(void);   /* ... and of the code that runs */

/* What a call answers with at once; what happens later is an event; never both. */
#define GW_RESULTS(X) \
    X(OK, 0, "done") \
    X(ERROR_ARGUMENT, -1, "an argument is missing, out of range or not UTF-8") \
    X(ERROR_TOO_LARGE, -2, "above 4,096 bytes as JSON: Discord would close the connection") \
    X(ERROR_QUEUE_FULL, -3, "config.max_queued commands are waiting already") \
    X(ERROR_NOT_OUR_SHARD, -4, "this client does not run that guild's shard") \
    X(ERROR_ENDED, -5, "the client or the shard has stopped") \
    X(ERROR_IN_HOOK, -6, "called from inside a hook") \
    X(ERROR_SESSION_TEXT, -7, \
      "session text is cut, or of another bot, version or shard count; a new session is started") \
    X(ERROR_NO_MEMORY, -8, "the allocator or the fixed block has no room")
enum gw_result { GW_RESULTS(GW__ENUM) GW_RESULT_LAST_ = -8 };

/* > 0: queued under this number; < 0: a gw_result, nothing was queued */
typedef int32_t gw_ticket;

/* A sentence about the last call that failed; never NULL, never the token. */
GW_API const char *gw_why(const gw_client *gw);

/* ---- intents: name, bit, privileged.  Source: Discord docs, "Gateway Intents" ------------------ */
#define GW_INTENTS(X) \
    X(GUILDS, 0, 0) X(GUILD_MEMBERS, 1, 1) X(GUILD_MODERATION, 2, 0) X(GUILD_EXPRESSIONS, 3, 0) \
    X(GUILD_INTEGRATIONS, 4, 0) X(GUILD_WEBHOOKS, 5, 0) X(GUILD_INVITES, 6, 0) \
    X(GUILD_VOICE_STATES, 7, 0) X(GUILD_PRESENCES, 8, 1) X(GUILD_MESSAGES, 9, 0) \
    X(GUILD_MESSAGE_REACTIONS, 10, 0) X(GUILD_MESSAGE_TYPING, 11, 0) X(DIRECT_MESSAGES, 12, 0) \
    X(DIRECT_MESSAGE_REACTIONS, 13, 0) X(DIRECT_MESSAGE_TYPING, 14, 0) X(MESSAGE_CONTENT, 15, 1) \
    X(GUILD_SCHEDULED_EVENTS, 16, 0) X(AUTO_MODERATION_CONFIGURATION, 20, 0) \
    X(AUTO_MODERATION_EXECUTION, 21, 0) X(GUILD_MESSAGE_POLLS, 24, 0) X(DIRECT_MESSAGE_POLLS, 25, 0)
#define GW__INTENT(name, bit, privileged) GW_INTENT_##name = 1 << bit,
enum gw_intent {
    GW_INTENTS(GW__INTENT)
    GW_INTENTS_UNPRIVILEGED = 53575421,
    GW_INTENTS_ALL = 53608447       /* the privileged ones must be switched on in the Developer Portal */
};

/* ---- events: their numbers are for ever, new rows go at the end -------------------------------- */

/* Dispatches, by their documented names.  Source: Discord docs, "Receive Events". */
#define GW_DISPATCHES(X) \
    X(READY) X(RESUMED) X(RATE_LIMITED) X(APPLICATION_COMMAND_PERMISSIONS_UPDATE) \
    X(AUTO_MODERATION_RULE_CREATE) X(AUTO_MODERATION_RULE_UPDATE) X(AUTO_MODERATION_RULE_DELETE) \
    X(AUTO_MODERATION_ACTION_EXECUTION) X(CHANNEL_CREATE) X(CHANNEL_UPDATE) X(CHANNEL_DELETE) \
    X(CHANNEL_INFO) X(CHANNEL_PINS_UPDATE) X(THREAD_CREATE) X(THREAD_UPDATE) X(THREAD_DELETE) \
    X(THREAD_LIST_SYNC) X(THREAD_MEMBER_UPDATE) X(THREAD_MEMBERS_UPDATE) X(ENTITLEMENT_CREATE) \
    X(ENTITLEMENT_UPDATE) X(ENTITLEMENT_DELETE) X(GUILD_CREATE) X(GUILD_UPDATE) X(GUILD_DELETE) \
    X(GUILD_AUDIT_LOG_ENTRY_CREATE) X(GUILD_BAN_ADD) X(GUILD_BAN_REMOVE) X(GUILD_EMOJIS_UPDATE) \
    X(GUILD_STICKERS_UPDATE) X(GUILD_INTEGRATIONS_UPDATE) X(GUILD_MEMBER_ADD) \
    X(GUILD_MEMBER_REMOVE) X(GUILD_MEMBER_UPDATE) X(GUILD_MEMBERS_CHUNK) X(GUILD_ROLE_CREATE) \
    X(GUILD_ROLE_UPDATE) X(GUILD_ROLE_DELETE) X(GUILD_SCHEDULED_EVENT_CREATE) \
    X(GUILD_SCHEDULED_EVENT_UPDATE) X(GUILD_SCHEDULED_EVENT_DELETE) \
    X(GUILD_SCHEDULED_EVENT_USER_ADD) X(GUILD_SCHEDULED_EVENT_USER_REMOVE) \
    X(GUILD_SOUNDBOARD_SOUND_CREATE) X(GUILD_SOUNDBOARD_SOUND_UPDATE) \
    X(GUILD_SOUNDBOARD_SOUND_DELETE) X(GUILD_SOUNDBOARD_SOUNDS_UPDATE) X(SOUNDBOARD_SOUNDS) \
    X(INTEGRATION_CREATE) X(INTEGRATION_UPDATE) X(INTEGRATION_DELETE) X(INTERACTION_CREATE) \
    X(INVITE_CREATE) X(INVITE_DELETE) X(MESSAGE_CREATE) X(MESSAGE_UPDATE) X(MESSAGE_DELETE) \
    X(MESSAGE_DELETE_BULK) X(MESSAGE_REACTION_ADD) X(MESSAGE_REACTION_REMOVE) \
    X(MESSAGE_REACTION_REMOVE_ALL) X(MESSAGE_REACTION_REMOVE_EMOJI) X(PRESENCE_UPDATE) \
    X(STAGE_INSTANCE_CREATE) X(STAGE_INSTANCE_UPDATE) X(STAGE_INSTANCE_DELETE) \
    X(SUBSCRIPTION_CREATE) X(SUBSCRIPTION_UPDATE) X(SUBSCRIPTION_DELETE) X(TYPING_START) \
    X(USER_UPDATE) X(VOICE_CHANNEL_EFFECT_SEND) X(VOICE_CHANNEL_START_TIME_UPDATE) \
    X(VOICE_CHANNEL_STATUS_UPDATE) X(VOICE_STATE_UPDATE) X(VOICE_SERVER_UPDATE) X(WEBHOOKS_UPDATE) \
    X(MESSAGE_POLL_VOTE_ADD) X(MESSAGE_POLL_VOTE_REMOVE)
#define GW__DISPATCH(name) GW_##name,

/* The library's own; each brings a sentence in ev->message. */
#define GW_NOTICES(X) \
    X(GATEWAY_INFO, 1001, "/gateway/bot has answered; d is its body") \
    X(CONNECTING, 1002, "a shard dials; d is {\"url\":...}") \
    X(IDENTIFYING, 1003, "an Identify was spent") \
    X(DISCONNECTED, 1004, "reason, close_code, then what is next: will, in_ms; d: session, close_reason, advice") \
    X(SESSION_LOST, 1005, "what was not delivered is gone: refetch your state") \
    X(SKIPPED, 1006, "a payload above max_payload or the memory left: name, seq, bytes") \
    X(COMMAND_DROPPED, 1007, "ticket, reason") \
    X(IDENTIFY_HELD, 1008, "the daily budget or the gate says wait: in_ms") \
    X(POLLED_LATE, 1009, "in_ms after a heartbeat was due: your loop or the machine slept") \
    X(WOKEN, 1010, "somebody called gw_wake(); many calls may be one event") \
    X(SHARD_STOPPED, 1011, "after gw_shard_stop(), or fatal for this shard alone") \
    X(FATAL, 1012, "cannot go on; reason and message say why; CLOSED follows") \
    X(CLOSED, 1013, "the last event of a client") \
    X(OPENED, 1014, "101 received; Hello is awaited")
enum gw_event_type {
    GW_UNKNOWN_DISPATCH,
    GW_DISPATCHES(GW__DISPATCH)
    GW_DISPATCH_END_,
    GW_NOTICES(GW__ENUM)
    GW_NOTICE_END_
};
GW_API const char *gw_name_of(uint32_t type);   /* "GUILD_CREATE", "DISCONNECTED"; "" if we know none */

/* Why a connection, a shard or a command ended; the advice is in ev->message. */
#define GW_REASONS(X) \
    X(BY_CALLER, 1, "gw_stop, gw_shard_stop") \
    X(CONFIG, 2, "config") \
    X(MEMORY, 3, "no memory") \
    X(RESOLVE, 4, "DNS") \
    X(CONNECT, 5, "TCP") \
    X(PROXY, 6, "proxy") \
    X(TLS_EXPIRED, 7, "expired") \
    X(TLS_NOT_YET, 8, "not yet valid: our clock?") \
    X(TLS_NAME, 9, "wrong host") \
    X(TLS_UNTRUSTED, 10, "unknown CA") \
    X(TLS_OTHER, 11, "TLS") \
    X(HTTP, 12, "status in close_code") \
    X(PROTOCOL, 13, "broken bytes") \
    X(LOST, 14, "end without a code") \
    X(TIMEOUT, 15, "a state's deadline") \
    X(NO_ACK, 16, "heartbeat unanswered") \
    X(CLOSE_CODE, 17, "the server closed") \
    X(ASKED, 18, "op 7") \
    X(INVALID_SESSION, 19, "op 9") \
    X(SLEPT, 20, "machine was suspended") \
    X(BUDGET, 21, "identify budget") \
    X(NEWER, 22, "a newer presence replaced it") \
    X(TLS_INVALID, 23, "certificate malformed or misused") \
    X(TLS_VERSION, 24, "no common TLS version") \
    X(TLS_ALERT, 25, "the peer's alert") \
    X(TLS_MAC, 26, "record damaged") \
    X(TLS_PROTOCOL, 27, "not TLS, or broken") \
    X(TOO_OLD, 28, "waited longer than max_queued_ms") \
    X(SESSION_GONE, 29, "its answer died with the session")
#define GW__REASON(name, value, text) GW_REASON_##name = value,
enum gw_reason { GW_REASON_NONE, GW_REASONS(GW__REASON) GW_REASON_END_ };
enum gw_next { GW_NEXT_NOTHING, GW_NEXT_RESUME, GW_NEXT_IDENTIFY };
enum gw_how {
    GW_KEEP = 1,                /* the session stays resumable for some minutes (close code 4000) */
    GW_END = 2                  /* the session is over now, the bot is offline (close code 1000) */
};
enum { GW_ALL = -1, GW_FOREVER = -1 };

/* A slice of JSON text: raw, quotes and escapes included. ptr NULL: absent. */
typedef struct gw_json {
    const char *ptr;
    size_t len;
    const void *index;          /* ours: speeds up look-ups inside the event in hand; NULL for your own text */
} gw_json;

/* Lives in the client, with all it points to, until its next gw_poll, gw_wait or gw_close. Later versions append
 * fields; you never make one, so nothing breaks. */
typedef struct gw_event {
    uint32_t    type;           /* enum gw_event_type */
    int32_t     shard;          /* its id; GW_ALL: the client as a whole */
    const char *name;           /* "MESSAGE_CREATE", of unknown ones too; 0-terminated; never NULL */
    gw_json     d;              /* body; ptr and len may be forwarded as they are */
    uint64_t    seq;            /* s; 0 outside dispatches, legal inside: type < GW_GATEWAY_INFO tells */
    uint32_t    session;        /* grows with each new session of the shard: (shard, session, seq) names an event */
    uint32_t    replayed;       /* 1 between a Resume and its RESUMED: may be a repetition after a restart */
    uint64_t    received_ms;    /* monotonic */
    const char *message;        /* of notices: what happened, with whom, what to check; "" for dispatches */
    uint32_t    reason;         /* enum gw_reason */
    int32_t     close_code;     /* or HTTP status; 0: none */
    uint32_t    will;           /* enum gw_next: what the library does about it */
    uint32_t    in_ms;          /* ... and when */
    gw_ticket   ticket;         /* of COMMAND_DROPPED and RATE_LIMITED: the command it is about; 0: not known */
    uint64_t    bytes;          /* of the payload, as JSON */
} gw_event;

/* ---- config: a zero is a default; everything is copied unless it says borrowed ------------------ */
enum gw_log_level { GW_LOG_ERROR = 1, GW_LOG_WARN, GW_LOG_INFO, GW_LOG_DEBUG, GW_LOG_TRACE };

/* A stream to host:port below TLS, in place of our sockets. Borrowed until gw_close(). All return at once. */
typedef struct gw_transport {
    void   *(*open)(void *user, const char *host, uint16_t port);           /* begins to dial; NULL: refused */
    int32_t (*read)(void *user, void *stream, void *bytes, uint32_t len);   /* > 0 read; 0 nothing yet; < 0 ended */
    int32_t (*write)(void *user, void *stream, const void *bytes, uint32_t len);    /* the same */
    intptr_t (*fd)(void *user, void *stream);                               /* -1: none; then you call gw_wake() */
    void    (*close)(void *user, void *stream);
} gw_transport;

typedef struct gw_activity {
    const char *name;           /* required */
    const char *state;          /* text of a custom status (type 4), an extra line otherwise; NULL: none */
    const char *url;            /* of type 1: https://twitch.tv/... or https://youtube.com/... */
    uint32_t    type;           /* 0 Playing, 1 Streaming, 2 Listening to, 3 Watching, 4 Custom, 5 Competing in */
} gw_activity;

typedef struct gw_presence {
    const char *status;         /* online (NULL too), dnd, idle, invisible, offline */
    const gw_activity *activities;
    uint32_t    activity_count, afk;
    uint64_t    since_ms;       /* unix time since which the bot is idle; 0: it is not */
} gw_presence;

typedef struct gw_config {
    const char *token;          /* required; with or without "Bot "; our copy is overwritten at the end */
    uint32_t    intents;        /* 0 is a real value: only events that need no intent */
    uint32_t    large_threshold;        /* 50 to 250: members above which offline ones are left out; 0: 50 */
    int32_t     shard_first, shard_count, shard_total;  /* 0,0,0: unsharded; else this range of the total. count GW_ALL:
                                   from first to the last, and with total 0 as many as Discord advises. count 0 of a
                                   total: none until gw_shard_start() */
    const char *url;            /* wss://...; NULL: ask /gateway/bot. Whoever gives it gives the next three */
    uint32_t    max_concurrency;        /* Identify buckets; 0: 1 */
    uint32_t    identify_remaining;     /* Identifies left today; 0: not known, we count by ourselves */
    uint32_t    identify_reset_ms;      /* ... until they are full again */
    const char *session;        /* text of gw_session_save(), of any shards: they resume; NULL: none */
    size_t      session_len;
    const gw_presence *presence;        /* from the first moment on; NULL: online */
    uint32_t    compress;       /* 0: none; other values are refused by this version */
    uint32_t    ack_by_hand;    /* 1: saved sessions name what gw_ack() confirmed, not what was polled */
    const char *ca_file;        /* PEM or DER */
    const char *ca_pem;         /* PEM text */
    const void *trust_anchors;  /* br_x509_trust_anchor[], borrowed until gw_close() */
    size_t      trust_anchor_count;     /* none of the three: the system's, then the bundled ones */
    uint64_t    unix_time_floor;        /* "it is at least this late": for boards without a clock; else 0 */
    const char *proxy;          /* NULL; other values are refused by this version */
    void       *memory;         /* borrowed until gw_close(): all that we ever allocate comes from here */
    size_t      memory_bytes;   /* gw_memory_needed() tells how much */
    uint32_t    max_payload;    /* bytes of d; larger ones are SKIPPED; 0: 64 MiB */
    uint32_t    max_queued;     /* commands that may wait, per shard; 0: 64 */
    uint32_t    max_queued_ms;  /* ... and how long; 0: 300,000 */
    uint32_t    turn_bytes;     /* a turn of gw_poll() ends after so much; 0: 64 KiB */
    uint32_t    turn_us;        /* ... or so long; 0: 1,000 */
    void       *user;           /* handed to every hook below; all are optional; a hook may call gw_wake() only */
    void     *(*alloc)(void *user, void *old, size_t old_bytes, size_t new_bytes);  /* new_bytes 0 frees */
    void      (*log)(void *user, uint32_t level, int32_t shard, const char *text);  /* never the token */
    uint32_t    log_level;      /* enum gw_log_level: the most detailed one that log gets; 0: GW_LOG_INFO */
    uint64_t  (*monotonic_us)(void *user);      /* stands still while the machine is suspended */
    uint64_t  (*boot_us)(void *user);           /* counts on; NULL with monotonic_us set: sleep is not noticed */
    uint64_t  (*unix_time)(void *user);         /* seconds; 0: unknown, then unix_time_floor is used */
    int32_t   (*random)(void *user, void *bytes, size_t len);   /* < 0: failed; unpredictable, or TLS is not safe */
    int32_t   (*resolve)(void *user, const char *host, char *ip_text, size_t cap);
                                                /* 1 done: "192.0.2.1 2001:db8::1"; 0 ask again; < 0 failed */
    int32_t   (*identify_gate)(void *user, int32_t shard, uint32_t bucket);
                                                /* 0 go; n > 0 ask again in n ms or after gw_wake(); < 0 never. A go holds
                                                   until that shard's IDENTIFYING (spent), DISCONNECTED or
                                                   SHARD_STOPPED (given back) */
    const gw_transport *transport;              /* borrowed */
} gw_config;

/* ---- life --------------------------------------------------------------------------------------- */

/* A client, or NULL without memory. No network yet; a config that makes no sense comes out as FATAL.
 *   gw_open(&cfg) is what you call; the _sized form is for FFI and keeps old callers working. */
GW_API gw_client *gw_open_sized(const gw_config *cfg, size_t config_bytes);

/* Bytes of config.memory that a client of this config needs at most: for all shards of the range, by hand for all of the
 * total, for GW_ALL without a total for one. */
GW_API size_t gw_memory_needed_sized(const gw_config *cfg, size_t config_bytes);
#ifndef GW_FFI
static inline gw_client *gw_open(const gw_config *cfg) { return gw_open_sized(cfg, sizeof *cfg); }
static inline size_t gw_memory_needed(const gw_config *cfg)
{
    return gw_memory_needed_sized(cfg, sizeof *cfg);
}
#endif

/* The next event; NULL ends this turn: nothing is there, or its budget is spent (gw_timeout_ms() is 0 then). */
GW_API const gw_event *gw_poll(gw_client *gw);

/* The same, but sleeps in the kernel for up to timeout_ms (GW_FOREVER). NULL: time is up, or ended for good. */
GW_API const gw_event *gw_wait(gw_client *gw, int32_t timeout_ms);

/* Heartbeats, sends and ACKs only; the event in hand stays valid. Call it during long work. */
GW_API void gw_tend(gw_client *gw);

/* 1 until CLOSED was taken. */
GW_API int32_t gw_alive(const gw_client *gw);

/* Begins an orderly end; poll on until CLOSED (5 s at most).
 *   how       GW_KEEP or GW_END (enum gw_how)
 *   Returns   GW_OK, GW_ERROR_ARGUMENT, GW_ERROR_ENDED */
GW_API int32_t gw_stop(gw_client *gw, uint32_t how);

/* Frees everything at once, never blocks; sessions that gw_stop() has not ended stay resumable. */
GW_API void gw_close(gw_client *gw);

/* ---- shards: named by their id; a client has one total for life (two clients re-shard) ---------- */

/* Begins a shard of config.shard_total that does not run: one that was stopped, or with shard_count 0 any.
 *   session   text of gw_session_save(), with the session it resumes; NULL or without it: an Identify; read, not kept
 *   Returns   GW_OK, GW_ERROR_ARGUMENT (no such id, or it runs), GW_ERROR_ENDED, GW_ERROR_NO_MEMORY, GW_ERROR_SESSION_TEXT:
 *             the text is refused, and the shard starts all the same, with an Identify */
GW_API int32_t gw_shard_start(gw_client *gw, int32_t shard, const char *session,
                              size_t session_len);

/* Ends a shard. When this returns its connection is gone and nothing of it is sent any more; events that were not handed
 * out yet are not taken. SHARD_STOPPED follows, behind a COMMAND_DROPPED for each command that waited.
 *   how       GW_KEEP: gw_session_save() still has its session, for whoever runs it next; GW_END: it is over
 *   Returns   GW_OK, GW_ERROR_NOT_OUR_SHARD (it does not run), GW_ERROR_ARGUMENT, GW_ERROR_ENDED */
GW_API int32_t gw_shard_stop(gw_client *gw, int32_t shard, uint32_t how);
GW_API int32_t gw_shard_of(const gw_client *gw, uint64_t guild_id); /* the guild's shard, run here or not */
GW_API int32_t gw_shard_live(const gw_client *gw, int32_t shard);   /* 1 after READY or RESUMED; GW_ALL: all that run? */

/* No events from the shard (or GW_ALL) for now; heartbeats go on, TCP holds the rest. on 0: go on. While it is held
 * nothing is read: a connection that died silently is noticed afterwards.
 *   Returns   GW_OK, GW_ERROR_ARGUMENT (no such shard), GW_ERROR_ENDED */
GW_API int32_t gw_hold(gw_client *gw, int32_t shard, int32_t on);

/* on 0: that dispatch is never stored nor handed out, but counted; GW_UNKNOWN_DISPATCH: all that have no number.
 *   Returns   GW_OK; GW_ERROR_ARGUMENT for READY, RESUMED and what is no dispatch; GW_ERROR_ENDED */
GW_API int32_t gw_want(gw_client *gw, uint32_t type, int32_t on);

/* ---- reading JSON: stateless, any thread, any text (a gw_json of your own: ptr, len, index NULL) --
 * path: "author.id", "roles.0"; NULL or "": the value itself. Keys compare decoded, the first of equal keys wins; a key
 * that has a dot in it is reached by gw_next(). What is not there, or broken on the way, reads as absent. */
enum gw_kind { GW_ABSENT, GW_NULL, GW_FALSE, GW_TRUE, GW_NUMBER, GW_STRING, GW_ARRAY, GW_OBJECT };
GW_API uint32_t gw_kind_of(const gw_json *v, const char *path);

/* 1 if there; else *out is absent, safe to read on. out may be v itself, or NULL. */
GW_API int32_t gw_get(const gw_json *v, const char *path, gw_json *out);

/* Many paths in one pass; the number found. out has count places. */
GW_API uint32_t gw_pick(const gw_json *v, const char *const *paths, uint32_t count, gw_json *out);

/* The next member or element; begin with *value zero; key may be NULL, and is absent in arrays.
 *   Returns   1, or 0 at the end or at a fault: then both are absent, and the next call begins anew */
GW_API int32_t gw_next(const gw_json *container, gw_json *key, gw_json *value);

/* A number, or a string of digits, exact to 64 bits; 0 if it is none, has a fraction, or does not fit. */
GW_API uint64_t gw_u64(const gw_json *v, const char *path);
GW_API int64_t gw_i64(const gw_json *v, const char *path);

/* A number, or a string that is one, whatever the locale; 0 if it is none; infinity if it is too large. */
GW_API double gw_f64(const gw_json *v, const char *path);
GW_API int32_t gw_true(const gw_json *v, const char *path);    /* 1 for true only */

/* 1 if it is a string that reads, decoded, as text. */
GW_API int32_t gw_is(const gw_json *v, const char *path, const char *text);

/* Strings decoded, numbers, true and false as they stand; null, arrays, objects and absent give "". 0-terminated, cut
 * between characters; a lone surrogate becomes U+FFFD. Returns the full length, as snprintf does. */
GW_API size_t gw_text(const gw_json *v, const char *path, char *out, size_t cap);

/* No copy, no 0 at the end; NULL if it is no string, or has escapes. */
GW_API const char *gw_plain(const gw_json *v, const char *path, size_t *len);

/* The other way: text as a JSON string with its quotes, all or (cap is too small) nothing; bytes that are not UTF-8
 * become U+FFFD. Returns the full length. */
GW_API size_t gw_quote(const char *text, size_t len, char *out, size_t cap);

/* ---- typed views: what the library itself reads of a dispatch; slices live as long as d does ------ */
typedef struct gw_ready {           /* RESUMED has no fields */
    uint64_t user_id, application_id;   /* the bot's; 0: absent */
    uint32_t version;               /* of the API */
    int32_t  shard, shard_total;    /* 0, 0: unsharded */
    gw_json  session_id, resume_gateway_url, user, guilds;
} gw_ready;

typedef struct gw_rate_limited {
    uint32_t opcode;                /* of the command that was refused; 8: request members */
    uint32_t retry_after_ms;        /* an hour at most */
    uint64_t guild_id;              /* 0: absent, as is the nonce */
    gw_json  nonce;
} gw_rate_limited;

/* d of READY, of RATE_LIMITED. 1; or 0 and all zero: it is no object, or has no opcode and retry_after. */
GW_API int32_t gw_read_ready(const gw_json *d, gw_ready *out);
GW_API int32_t gw_read_rate_limited(const gw_json *d, gw_rate_limited *out);

/* ---- commands: a guild finds its shard; else shard id or GW_ALL (one ticket for all that run) --------
 * All answer at once with a ticket (> 0), also before READY, or with
 *   GW_ERROR_ARGUMENT       gw_why() says which; nothing was queued, here and below
 *   GW_ERROR_TOO_LARGE      the payload is above 4,096 bytes as JSON
 *   GW_ERROR_QUEUE_FULL     config.max_queued wait already on that shard
 *   GW_ERROR_NOT_OUR_SHARD  the guild's shard, or that id, does not run here
 *   GW_ERROR_ENDED          the shard or the client was stopped
 *   GW_ERROR_NO_MEMORY, GW_ERROR_IN_HOOK
 * Everything is copied. What waits outlives reconnects and new sessions, up to config.max_queued_ms; then, or when its
 * shard ends, it comes back as COMMAND_DROPPED with its ticket and a reason. What has left is never sent twice. */

/* What the bot shows. The newest wins: one that has not left is dropped (NEWER). 5 leave in 20 s; there is no age.
 * An Identify carries it; a Resume keeps it. With GW_ALL it is that of later shards too. In a fixed block its room is
 * counted where config.presence is given.
 *   Source    Discord docs, "Update Presence" */
GW_API gw_ticket gw_set_presence(gw_client *gw, int32_t shard, const gw_presence *presence);

/* Joins, moves, or (channel_id 0) leaves. VOICE_STATE_UPDATE and VOICE_SERVER_UPDATE follow, in either order; nothing
 * follows where the channel is full.
 *   Source    Discord docs, "Update Voice State" */
GW_API gw_ticket gw_set_voice(gw_client *gw, uint64_t guild_id, uint64_t channel_id, int32_t mute,
                              int32_t deaf);

typedef struct gw_members {         /* query or user_ids */
    uint64_t guild_id;
    const char *query;              /* prefix of the user name; "": all, see limit */
    const uint64_t *user_ids;       /* 1 to 100 */
    uint32_t user_id_count;
    uint32_t limit;                 /* with a prefix 1 to 100, 0: 100; with "" any, 0: the whole list */
    uint32_t presences;             /* 1: with presences (needs GW_INTENT_GUILD_PRESENCES) */
    uint32_t retry;                 /* 1: RATE_LIMITED is waited out, and the request repeated */
    const char *nonce;              /* comes back in the chunks; 32 bytes at most; NULL: none */
} gw_members;

/* Asks for members of one guild; they arrive as GUILD_MEMBERS_CHUNK events, up to 1,000 each. The whole list needs
 * GW_INTENT_GUILD_MEMBERS and goes out once in 30 s for one guild; more of them wait, and others pass. The request keeps
 * its place in the queue until its last chunk has come: COMMAND_DROPPED says SESSION_GONE if the session ended before,
 * TIMEOUT if no complete answer came within config.max_queued_ms. RATE_LIMITED bears its ticket, and in_ms.
 *   Source    Discord docs, "Request Guild Members", "Rate Limited" */
GW_API gw_ticket gw_request_members(gw_client *gw, const gw_members *request);

/* A SOUNDBOARD_SOUNDS event a guild; about 180 guilds of one shard fit into a payload. All shards or none.
 *   Source    Discord docs, "Request Soundboard Sounds" */
GW_API gw_ticket gw_request_sounds(gw_client *gw, const uint64_t *guild_ids, uint32_t count);

/* status, voice_start_time: 1 for what you want to know of the guild's voice channels. A CHANNEL_INFO event follows.
 *   Source    Discord docs, "Request Channel Info" */
GW_API gw_ticket gw_request_channel_info(gw_client *gw, uint64_t guild_id, int32_t status,
                                         int32_t voice_start_time);

/* Any payload: {"op":op,"d":d}. It counts in the 120 of 60 s; other limits of its opcode are yours to keep.
 *   shard     its id, or GW_ALL
 *   op        any but 1, 2 and 6, which the library sends itself
 *   d, len    JSON, UTF-8
 *   Source    Discord docs, "Sending Events" */
GW_API gw_ticket gw_send_raw(gw_client *gw, int32_t shard, uint32_t op, const char *d, size_t len);

/* ---- other people's loops ----------------------------------------------------------------------- */
typedef struct gw_pollfd { intptr_t fd; uint32_t readable, writable; } gw_pollfd;

/* Readable exactly while gw_poll() has work, timers and buffered bytes included; level-triggered. -1 where there is no
 * epoll: gw_pollfds. It stays the same for the life of the client; do not close it. */
GW_API intptr_t gw_fd(gw_client *gw);

/* For select, poll, WSAPoll: fills up to cap places, answers how many there are. Ask each round. */
GW_API uint32_t gw_pollfds(gw_client *gw, gw_pollfd *out, uint32_t cap);

/* 0: work now; n: with gw_pollfds, call by then; -1: ended. */
GW_API int32_t gw_timeout_ms(gw_client *gw);

/* From any thread, any signal handler; comes out as WOKEN. */
GW_API void gw_wake(gw_client *gw);

/* The network changed, or the machine woke: probes what is open (5 s), skips what waits. */
GW_API void gw_recheck(gw_client *gw);

/* ---- sessions, numbers -------------------------------------------------------------------------- */
#define GW_SESSION_MAX 512u         /* bytes of text a shard needs at most, the 0 at the end included */

/* Writes the session of a shard, or of GW_ALL, as text; also after CLOSED.
 *   Returns   the full length without the 0; where cap is not above it the text is cut and worth nothing
 *   It names the last event taken, which is the one before the event in hand; with ack_by_hand the last one
 *   acknowledged. Without one the text holds the Identify budget only. The token is not in it; what is in it lets
 *   nobody act as the bot without the token. */
GW_API size_t gw_session_save(gw_client *gw, int32_t shard, char *out, size_t cap);

/* All events up to this one are done, the event in hand too.
 *   Returns   GW_OK (also for a session that is gone), GW_ERROR_NOT_OUR_SHARD, GW_ERROR_ARGUMENT (it has not come yet) */
GW_API int32_t gw_ack(gw_client *gw, int32_t shard, uint32_t session, uint64_t seq);

/* The bot's ids: from READY, or from the session text, as a Resume brings no READY. 0: not known yet. */
GW_API uint64_t gw_user_id(const gw_client *gw);
GW_API uint64_t gw_application_id(const gw_client *gw);

typedef struct gw_stats {
    uint64_t events, filtered, skipped;         /* dispatches handed out; dropped by gw_want; too large */
    uint64_t wire_bytes_in, wire_bytes_out;     /* TLS included */
    uint64_t payload_bytes;                     /* JSON that came in */
    uint64_t heartbeats, acks, latency_us, latency_mean_us; /* of a heartbeat: the last one (of several shards the
                                                               longest), and the mean */
    uint64_t connects, resumes, identifies, identifies_left;
    uint64_t sends, send_queue, sends_dropped;  /* payloads sent, heartbeats included; commands waiting; dropped */
    uint64_t polls_late, longest_turn_us;
    uint64_t memory_now, memory_peak;           /* bytes, of the whole client */
} gw_stats;

/* shard, or GW_ALL: summed. Returns GW_OK, GW_ERROR_NOT_OUR_SHARD, GW_ERROR_ARGUMENT. Works after CLOSED too. */
GW_API int32_t gw_stats_read_sized(gw_client *gw, int32_t shard, gw_stats *out, size_t stats_bytes);
#ifndef GW_FFI
static inline int32_t gw_stats_read(gw_client *gw, int32_t shard, gw_stats *out)
{
    return gw_stats_read_sized(gw, shard, out, sizeof *out);
}
#endif

/* All of it as Prometheus text: discord_gateway_events_total{shard="0"} 12 ..., a line a shard and number.
 *   Returns   the full length without the 0; where cap is not above it the text is cut. Works after CLOSED too. */
GW_API size_t gw_stats_text(gw_client *gw, char *out, size_t cap);

#ifdef __cplusplus
}
#endif
#endif /* DISCORD_GATEWAY_H */

/* ================================================================================================
 * The implementation, in rooms; each calls only rooms above it:  grep '>> room' discord_gateway.h
 *   Bytes come in from link, go through ws and json to the session, and out as an event; what is sent
 *   goes back up once. A room that needs something from below returns a value that says so.
 * ================================================================================================ */
#ifdef DISCORD_GATEWAY_IMPLEMENTATION
#ifndef DISCORD_GATEWAY_IMPLEMENTED
#define DISCORD_GATEWAY_IMPLEMENTED

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>
#ifndef CLOCK_MONOTONIC
#error "discord_gateway.h needs POSIX names: with -std=c99 add -D_DEFAULT_SOURCE (or use -std=gnu99)"
#endif
#ifndef GW_NO_THREADS
#include <pthread.h>
#endif
#ifdef __linux__
#include <sys/random.h>
#endif
#if defined __SSE2__ && (defined __GNUC__ || defined __clang__) && !defined GW_NO_SIMD
#define GW__SIMD 1
#include <immintrin.h>
#endif
#if defined __linux__ && !defined GW_NO_EPOLL
#define GW__EPOLL 1
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#else
#include <poll.h>
#endif
#if defined __GNUC__ || defined __clang__      /* its inline functions are not ours to judge */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wshadow"
#endif
#include <bearssl.h>
#if defined __GNUC__ || defined __clang__
#pragma GCC diagnostic pop
#endif
#if !defined GW__API_IS_SHARED && (defined __GNUC__ || defined __clang__)
#pragma GCC diagnostic push             /* GW_API=static: nobody uses all of the public part */
#pragma GCC diagnostic ignored "-Wunused-function"
#endif

/* ==========================================================================
 * >> room: platform -- everything that only an operating system can do.
 *    Knows:  clocks, random bytes, sockets, the poller, threads, files, where CA bundles lie.
 *    Not:    TLS, WebSocket, Discord; nothing here decides anything.
 *    Every #if of an operating system lives here; another system is another half of this room.
 * ========================================================================== */

#if defined __GNUC__ || defined __clang__
#define GW__UNUSED __attribute__((unused))
#define GW__FORMAT(text, first) __attribute__((format(printf, text, first)))
#else
#define GW__UNUSED
#define GW__FORMAT(text, first)
#endif
/* Inlined wherever it stands: because it runs under another target, or because a reader's loop is
 * nothing else. Who asks for small code gets calls instead of the second kind. */
#if defined __GNUC__ || defined __clang__
#define GW__ALWAYS inline __attribute__((always_inline))
#endif
#if defined __OPTIMIZE__ && !defined __OPTIMIZE_SIZE__ && defined GW__ALWAYS
#define GW__HOT GW__ALWAYS
#else
#define GW__HOT
#endif
#ifndef GW_ASSERT
#define GW_ASSERT(condition) ((void)0)
#endif
#define GW__COUNT(array) (sizeof(array) / sizeof *(array))
#define GW__MIN(a, b) ((a) < (b) ? (a) : (b))
#define GW__MAX(a, b) ((a) > (b) ? (a) : (b))

#define GW__NO_FD ((intptr_t)-1)
#define GW__NEVER UINT64_MAX

/* What a stream answers besides a number of bytes. */
enum { GW__IO_AGAIN = 0, GW__IO_ENDED = -1, GW__IO_FAILED = -2 };

typedef struct gw__address {
    uint8_t  bytes[16];
    uint32_t is_v6;
    uint32_t scope;     /* of a link-local IPv6 address; else 0 */
    uint16_t port;
} gw__address;

typedef struct gw__ready {      /* what the poller saw */
    uint64_t tag;
    uint32_t readable, writable;
} gw__ready;

/* ---- clocks ---- */
static uint64_t gw__sys_clock_us(clockid_t clock)
{
    struct timespec time;
    if (clock_gettime(clock, &time) != 0) return 0;
    return (uint64_t)time.tv_sec * 1000000u + (uint64_t)time.tv_nsec / 1000u;
}

static uint64_t gw__sys_monotonic_us(void)
{
    return gw__sys_clock_us(CLOCK_MONOTONIC);
}

/* Counts on while the machine is suspended, unlike the monotonic clock; their difference is
 * sleep. */
static uint64_t gw__sys_boot_us(void)
{
#ifdef CLOCK_BOOTTIME
    return gw__sys_clock_us(CLOCK_BOOTTIME);
#else
    return gw__sys_clock_us(CLOCK_MONOTONIC);
#endif
}

static uint64_t gw__sys_unix_time(void)
{
    time_t now = time(NULL);
    return now > 0 ? (uint64_t)now : 0;
}

/* ---- random bytes: 1 when all of them are there ---- */
static int gw__sys_random(void *bytes, size_t len)
{
    uint8_t *out = (uint8_t *)bytes;
    ssize_t got;
    int fd;
#ifdef __linux__
    while (len > 0) {
        got = getrandom(out, len, 0);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) break;            /* an old kernel: the device below */
        out += got;
        len -= (size_t)got;
    }
#endif
    if (len == 0) return 1;
    fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    while (len > 0) {
        got = read(fd, out, len);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) break;
        out += got;
        len -= (size_t)got;
    }
    close(fd);
    return len == 0;
}

static const char *gw__sys_name(void)
{
#if defined __linux__
    return "linux";
#elif defined __APPLE__
    return "darwin";
#else
    return "bsd";
#endif
}

/* ---- files ---- */

/* Changes when the file does; 1 if there is such a file. */
static int gw__sys_file_stamp(const char *path, uint64_t stamp[2])
{
    struct stat facts;
    if (stat(path, &facts) != 0 || !S_ISREG(facts.st_mode)) return 0;
    stamp[0] = (uint64_t)facts.st_mtime ^ ((uint64_t)facts.st_ino << 32);
    stamp[1] = (uint64_t)facts.st_size;
    return 1;
}

/* Bytes read from `offset` on; 0: the end, or it cannot be read. */
static size_t gw__sys_file_read(const char *path, uint64_t offset, void *out, size_t cap)
{
    ssize_t got;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    do got = pread(fd, out, cap, (off_t)offset); while (got < 0 && errno == EINTR);
    close(fd);
    return got > 0 ? (size_t)got : 0;
}

/* Where the system keeps its CA certificates: the number-th place to look, NULL after the last. */
static const char *gw__sys_ca_path(uint32_t number)
{
    static const char *const paths[] = {
        "/etc/ssl/certs/ca-certificates.crt",                   /* Debian, Ubuntu, Alpine, Arch */
        "/etc/pki/tls/certs/ca-bundle.crt",                     /* Fedora, RHEL */
        "/etc/ssl/ca-bundle.pem",                               /* openSUSE */
        "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",    /* CentOS */
        "/etc/ssl/cert.pem",                                    /* macOS, OpenBSD, Alpine */
        "/usr/local/share/certs/ca-root-nss.crt",               /* FreeBSD */
        "/system/etc/security/cacerts.pem"                      /* some Androids */
    };
    if (number == 0) {
        const char *given = getenv("SSL_CERT_FILE");
        return given ? given : "";
    }
    return number <= GW__COUNT(paths) ? paths[number - 1] : NULL;
}

/* ---- sockets ---- */

/* Words for what users meet; strerror() is not safe among threads and strerror_r() has two
 * shapes. */
static const char *gw__sys_error_text(int error)
{
    switch (error) {
    case ECONNREFUSED: return "connection refused: nothing listens there, or a firewall says no";
    case ECONNRESET:   return "connection reset by the peer";
    case EPIPE:        return "the peer no longer reads";
    case ETIMEDOUT:    return "timed out: the host does not answer";
    case EHOSTUNREACH: return "no route to the host";
    case ENETUNREACH:  return "network unreachable: is this machine online?";
    case ENETDOWN:     return "the network is down";
    case EADDRNOTAVAIL: return "no local address or port is free for this";
    case EAFNOSUPPORT: return "this machine does not speak that address family";
    case EMFILE: case ENFILE: return "too many open files: raise the limit (ulimit -n)";
    case ENOBUFS: case ENOMEM: return "the system is out of memory for sockets";
    case EACCES: case EPERM: return "the system forbids it (a firewall or a sandbox)";
    default: return "system error";
    }
}

static int gw__sys_address_parse(const char *text, uint16_t port, gw__address *address)
{
    memset(address, 0, sizeof *address);
    address->port = port;
    if (inet_pton(AF_INET, text, address->bytes) == 1) return 1;
    address->is_v6 = 1;
    return inet_pton(AF_INET6, text, address->bytes) == 1;
}

static void gw__sys_address_text(const gw__address *address, char *out, size_t cap)
{
    out[0] = 0;
    inet_ntop(address->is_v6 ? AF_INET6 : AF_INET, address->bytes, out, (socklen_t)cap);
}

static socklen_t gw__sys_address_fill(const gw__address *address, struct sockaddr_storage *out)
{
    memset(out, 0, sizeof *out);
    if (address->is_v6) {
        struct sockaddr_in6 v6;
        memset(&v6, 0, sizeof v6);
        v6.sin6_family = AF_INET6;
        v6.sin6_port = htons(address->port);
        v6.sin6_scope_id = address->scope;
        memcpy(&v6.sin6_addr, address->bytes, 16);
        memcpy(out, &v6, sizeof v6);
        return (socklen_t)sizeof v6;
    } else {
        struct sockaddr_in v4;
        memset(&v4, 0, sizeof v4);
        v4.sin_family = AF_INET;
        v4.sin_port = htons(address->port);
        memcpy(&v4.sin_addr, address->bytes, 4);
        memcpy(out, &v4, sizeof v4);
        return (socklen_t)sizeof v4;
    }
}

static int gw__sys_nonblocking(int fd)
{
    int flags = fcntl(fd, F_GETFL, 0);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) return 0;
    return fcntl(fd, F_SETFD, FD_CLOEXEC) >= 0;
}

static void gw__sys_socket_close(intptr_t fd)
{
    if (fd != GW__NO_FD) close((int)fd);
}

/* Begins to connect, without waiting. GW__NO_FD: it failed at once, *error says why. */
static intptr_t gw__sys_socket_dial(const gw__address *address, int *error)
{
    struct sockaddr_storage to;
    socklen_t to_len = gw__sys_address_fill(address, &to);
    int on = 1, fd = socket(to.ss_family, SOCK_STREAM, 0);
    if (fd < 0) { *error = errno; return GW__NO_FD; }
    /* heartbeats must not wait for Nagle */
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
#ifdef SO_NOSIGPIPE
    setsockopt(fd, SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof on);
#endif
    if (gw__sys_nonblocking(fd)) {
        if (connect(fd, (const struct sockaddr *)&to, to_len) == 0) return fd;
        if (errno == EINPROGRESS || errno == EINTR) return fd;
    }
    *error = errno;
    close(fd);
    return GW__NO_FD;
}

/* 1: connected; 0: still under way; -1: failed, *error says why. */
static int gw__sys_socket_dialed(intptr_t fd, int *error)
{
    struct sockaddr_storage peer;
    socklen_t len = (socklen_t)sizeof *error;
    *error = 0;
    if (getsockopt((int)fd, SOL_SOCKET, SO_ERROR, error, &len) < 0) *error = errno;
    if (*error) return -1;
    len = (socklen_t)sizeof peer;
    return getpeername((int)fd, (struct sockaddr *)&peer, &len) == 0 ? 1 : 0;
}

static int32_t gw__sys_socket_result(ssize_t done, int *error)
{
    if (done > 0) return (int32_t)done;
    if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) return GW__IO_AGAIN;
    *error = errno;
    return GW__IO_FAILED;
}

/* > 0 bytes; GW__IO_AGAIN, GW__IO_ENDED (the peer sends no more), GW__IO_FAILED with *error. */
static int32_t gw__sys_socket_read(intptr_t fd, void *bytes, uint32_t len, int *error)
{
    ssize_t got = recv((int)fd, bytes, len, 0);
    return got == 0 ? (int32_t)GW__IO_ENDED : gw__sys_socket_result(got, error);
}

static int32_t gw__sys_socket_write(intptr_t fd, const void *bytes, uint32_t len, int *error)
{
#ifdef MSG_NOSIGNAL
    return gw__sys_socket_result(send((int)fd, bytes, len, MSG_NOSIGNAL), error);
#else
    return gw__sys_socket_result(send((int)fd, bytes, len, 0), error);
#endif
}

/* ---- the system's resolver: may take minutes; for a helper thread where there is one ---- */
static uint32_t gw__sys_resolve(const char *host, gw__address *out, uint32_t cap, int *error)
{
    struct addrinfo hints, *list = NULL, *entry;
    uint32_t count = 0;
    memset(&hints, 0, sizeof hints);
    hints.ai_socktype = SOCK_STREAM;
    *error = getaddrinfo(host, NULL, &hints, &list);
    if (*error) return 0;
    for (entry = list; entry && count < cap; entry = entry->ai_next) {
        gw__address *address = &out[count];
        memset(address, 0, sizeof *address);
        if (entry->ai_family == AF_INET) {
            struct sockaddr_in v4;
            memcpy(&v4, entry->ai_addr, sizeof v4);
            memcpy(address->bytes, &v4.sin_addr, 4);
        } else if (entry->ai_family == AF_INET6) {
            struct sockaddr_in6 v6;
            memcpy(&v6, entry->ai_addr, sizeof v6);
            memcpy(address->bytes, &v6.sin6_addr, 16);
            address->is_v6 = 1;
            address->scope = v6.sin6_scope_id;
        } else continue;
        count++;
    }
    freeaddrinfo(list);
    return count;
}

static const char *gw__sys_resolve_text(int error)
{
    switch (error) {
    case EAI_NONAME: return "there is no such host";
    case EAI_AGAIN:  return "the name server does not answer: is this machine online?";
    case EAI_FAIL:   return "the name server failed";
    case EAI_MEMORY: return "no memory";
    default:         return "the system's resolver failed";
    }
}

/* ---- threads: only the resolver's helper ---- */
#ifndef GW_NO_THREADS
typedef pthread_mutex_t gw__mutex;
static void gw__sys_mutex_init(gw__mutex *mutex)   { pthread_mutex_init(mutex, NULL); }
static void gw__sys_mutex_lock(gw__mutex *mutex)   { pthread_mutex_lock(mutex); }
static void gw__sys_mutex_unlock(gw__mutex *mutex) { pthread_mutex_unlock(mutex); }
static void gw__sys_mutex_free(gw__mutex *mutex)   { pthread_mutex_destroy(mutex); }

/* A detached thread that takes none of the host program's signals; 0: the system has none to
 * give. */
static int gw__sys_thread(void *(*run)(void *), void *argument)
{
    pthread_attr_t how;
    pthread_t thread;
    sigset_t all, before;
    int started;
    if (pthread_attr_init(&how) != 0) return 0;
    pthread_attr_setdetachstate(&how, PTHREAD_CREATE_DETACHED);
    /* name services want more than musl's default */
    pthread_attr_setstacksize(&how, 256u * 1024u);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    started = pthread_create(&thread, &how, run, argument) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&how);
    return started;
}
#endif

/* ---- the poller: sockets, a wake descriptor and, with epoll, a timer, all behind one ---- */
#define GW__TAG_WAKE  UINT64_MAX
#define GW__TAG_TIMER (UINT64_MAX - 1)
enum { GW__WOKEN_BY_HELPER = 1, GW__WOKEN_BY_CALLER = 2 };
enum { GW__WANT_READ = 1, GW__WANT_WRITE = 2 };

#ifdef GW__EPOLL
typedef struct gw__poller {
    int epoll_fd, wake_fd, timer_fd;
    uint64_t armed_us;          /* when the timer fires; GW__NEVER: disarmed */
} gw__poller;

#define GW__WATCH_BYTES 0u      /* epoll keeps its list in the kernel */

static void gw__sys_poller_lend(gw__poller *poller, void *memory, uint32_t count)
{
    (void)poller; (void)memory; (void)count;
}

static int gw__sys_poller_want(gw__poller *poller, intptr_t fd, uint64_t tag, uint32_t was,
                               uint32_t want)
{
    struct epoll_event event;
    memset(&event, 0, sizeof event);
    event.data.u64 = tag;
    event.events = ((want & GW__WANT_READ) ? (uint32_t)EPOLLIN : 0u) |
                   ((want & GW__WANT_WRITE) ? (uint32_t)EPOLLOUT : 0u);
    if (was == want) return 1;
    /* Wanting nothing must leave the set: a hang-up is reported whatever was asked for. */
    if (want == 0) return epoll_ctl(poller->epoll_fd, EPOLL_CTL_DEL, (int)fd, &event) == 0;
    return epoll_ctl(poller->epoll_fd, was ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, (int)fd, &event) == 0;
}

static void gw__sys_poller_close(gw__poller *poller)
{
    if (poller->wake_fd >= 0) close(poller->wake_fd);
    if (poller->timer_fd >= 0) close(poller->timer_fd);
    if (poller->epoll_fd >= 0) close(poller->epoll_fd);
    poller->wake_fd = poller->timer_fd = poller->epoll_fd = -1;
}

static int gw__sys_poller_open(gw__poller *poller)
{
    poller->armed_us = GW__NEVER;
    poller->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    poller->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    /* Boot time: after a suspend the timer fires at once, and the sleep is noticed. */
    poller->timer_fd = timerfd_create(CLOCK_BOOTTIME, TFD_NONBLOCK | TFD_CLOEXEC);
    if (poller->timer_fd < 0)
        poller->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (poller->epoll_fd >= 0 && poller->wake_fd >= 0 && poller->timer_fd >= 0 &&
        gw__sys_poller_want(poller, poller->wake_fd, GW__TAG_WAKE, 0, GW__WANT_READ) &&
        gw__sys_poller_want(poller, poller->timer_fd, GW__TAG_TIMER, 0, GW__WANT_READ)) return 1;
    gw__sys_poller_close(poller);
    return 0;
}

/* Makes the descriptor readable at `at_us` (GW__NEVER: by no timer). No system call where
 * nothing changes. */
static void gw__sys_poller_arm(gw__poller *poller, uint64_t at_us, uint64_t now_us)
{
    struct itimerspec when;
    uint64_t in_us = at_us > now_us ? at_us - now_us : 0;
    if (at_us == poller->armed_us && (at_us > now_us || at_us == 0)) return;
    memset(&when, 0, sizeof when);
    if (at_us != GW__NEVER) {
        when.it_value.tv_sec = (time_t)(in_us / 1000000u);
        when.it_value.tv_nsec = (long)(in_us % 1000000u) * 1000 + 1;     /* 0 would disarm it */
    }
    timerfd_settime(poller->timer_fd, 0, &when, NULL);
    poller->armed_us = at_us;
}

/* Sleeps up to timeout_ms (-1: until something happens). Number of entries filled in. */
static uint32_t gw__sys_poller_wait(gw__poller *poller, int32_t timeout_ms, gw__ready *out,
                                    uint32_t cap)
{
    const uint32_t broken = (uint32_t)EPOLLHUP | (uint32_t)EPOLLERR;    /* found out by reading */
    struct epoll_event events[32];
    int i, count = epoll_wait(poller->epoll_fd, events, (int)GW__MIN(cap, 32u), timeout_ms);
    for (i = 0; i < count; i++) {
        uint32_t bits = events[i].events;
        out[i].tag = events[i].data.u64;
        out[i].readable = (bits & ((uint32_t)EPOLLIN | broken)) != 0;
        out[i].writable = (bits & ((uint32_t)EPOLLOUT | broken)) != 0;
    }
    return count > 0 ? (uint32_t)count : 0;
}

static intptr_t gw__sys_poller_fd(const gw__poller *poller)      { return poller->epoll_fd; }
static intptr_t gw__sys_poller_wake_fd(const gw__poller *poller) { return poller->wake_fd; }
static intptr_t gw__sys_poller_wake_end(const gw__poller *poller) { return poller->wake_fd; }

/* From any thread and any signal handler; errno stays as it was. `end` is
 * gw__sys_poller_wake_end(). */
static void gw__sys_wake(intptr_t end, uint32_t by)
{
    uint64_t add = by == GW__WOKEN_BY_CALLER ? UINT64_C(1) << 32 : 1;
    int error = errno;
    if (write((int)end, &add, sizeof add) < 0) errno = error;      /* full: it is awake already */
    errno = error;
}

/* Who has woken it since the last call: GW__WOKEN_BY_... bits. */
static uint32_t gw__sys_poller_unwake(gw__poller *poller)
{
    uint64_t count = 0;
    while (read(poller->wake_fd, &count, sizeof count) < 0 && errno == EINTR) { }
    return (count >> 32 ? GW__WOKEN_BY_CALLER : 0) | ((uint32_t)count ? GW__WOKEN_BY_HELPER : 0);
}
#else
typedef struct gw__poller {
    int wake_fds[2];            /* a pipe: read end, write end */
    uint64_t *tags;  /* the client's memory: a tag and a pollfd a connection, the pipe first */
    struct pollfd *fds;
    uint32_t count, cap;
    uint32_t look_first;        /* so that no connection is always the last to be seen */
} gw__poller;

#define GW__WATCH_BYTES (sizeof(uint64_t) + sizeof(struct pollfd))

static int gw__sys_poller_want(gw__poller *poller, intptr_t fd, uint64_t tag, uint32_t was,
                               uint32_t want)
{
    uint32_t i;
    (void)was;
    for (i = 0; i < poller->count && poller->fds[i].fd != (int)fd; i++) { }
    if (want == 0) {
        if (i == poller->count) return 1;
        poller->fds[i] = poller->fds[--poller->count];
        poller->tags[i] = poller->tags[poller->count];
        return 1;
    }
    if (i == poller->cap) return 0;
    if (i == poller->count) poller->count++;
    poller->tags[i] = tag;
    poller->fds[i].fd = (int)fd;
    poller->fds[i].events = (short)(((want & GW__WANT_READ) ? POLLIN : 0) |
                                    ((want & GW__WANT_WRITE) ? POLLOUT : 0));
    return 1;
}

/* Memory for `count` descriptors, GW__WATCH_BYTES each, in place of what was lent before; its owner
 * frees it after the poller was closed. */
static void gw__sys_poller_lend(gw__poller *poller, void *memory, uint32_t count)
{
    uint64_t *tags = (uint64_t *)memory;
    struct pollfd *fds = (struct pollfd *)(void *)(tags + count);
    if (poller->count) {
        memcpy(tags, poller->tags, poller->count * sizeof *tags);
        memcpy(fds, poller->fds, poller->count * sizeof *fds);
    }
    poller->tags = tags;
    poller->fds = fds;
    poller->cap = count;
    if (poller->count) return;
    gw__sys_poller_want(poller, poller->wake_fds[0], GW__TAG_WAKE, 0, GW__WANT_READ);
}

static void gw__sys_poller_close(gw__poller *poller)
{
    if (poller->wake_fds[0] >= 0) close(poller->wake_fds[0]);
    if (poller->wake_fds[1] >= 0) close(poller->wake_fds[1]);
    poller->wake_fds[0] = poller->wake_fds[1] = -1;
}

static int gw__sys_poller_open(gw__poller *poller)
{
    poller->count = poller->cap = 0;
    if (pipe(poller->wake_fds) != 0) {
        poller->wake_fds[0] = poller->wake_fds[1] = -1;
        return 0;
    }
    if (gw__sys_nonblocking(poller->wake_fds[0]) && gw__sys_nonblocking(poller->wake_fds[1]))
        return 1;
    gw__sys_poller_close(poller);
    return 0;
}

static void gw__sys_poller_arm(gw__poller *poller, uint64_t at_us, uint64_t now_us)
{
    /* without a descriptor of its own there is nothing to arm */
    (void)poller; (void)at_us; (void)now_us;
}

/* Sleeps up to timeout_ms (-1: until something happens). Number of entries filled in. */
static uint32_t gw__sys_poller_wait(gw__poller *poller, int32_t timeout_ms, gw__ready *out,
                                    uint32_t cap)
{
    const short broken = POLLHUP | POLLERR | POLLNVAL;      /* found out by reading */
    uint32_t i, at, found = 0;
    if (poll(poller->fds, (nfds_t)poller->count, timeout_ms) <= 0) return 0;
    for (i = 0; i < poller->count && found < cap; i++) {
        at = (poller->look_first + i) % poller->count;
        if (poller->fds[at].revents == 0) continue;
        out[found].tag = poller->tags[at];
        out[found].readable = (poller->fds[at].revents & (POLLIN | broken)) != 0;
        out[found++].writable = (poller->fds[at].revents & (POLLOUT | broken)) != 0;
    }
    poller->look_first += found < cap ? 1 : i;     /* the next look goes on where this one was full */
    return found;
}

static intptr_t gw__sys_poller_fd(const gw__poller *poller)      { (void)poller; return GW__NO_FD; }
static intptr_t gw__sys_poller_wake_fd(const gw__poller *poller) { return poller->wake_fds[0]; }
static intptr_t gw__sys_poller_wake_end(const gw__poller *poller) { return poller->wake_fds[1]; }

/* From any thread and any signal handler; errno stays as it was. `end` is
 * gw__sys_poller_wake_end(). */
static void gw__sys_wake(intptr_t end, uint32_t by)
{
    uint8_t byte = (uint8_t)by;
    int error = errno;
    if (write((int)end, &byte, 1) < 0) errno = error;   /* full: it is awake already */
    errno = error;
}

/* Who has woken it since the last call: GW__WOKEN_BY_... bits. */
static uint32_t gw__sys_poller_unwake(gw__poller *poller)
{
    uint8_t bytes[64];
    uint32_t by = 0;
    ssize_t i, got;
    while ((got = read(poller->wake_fds[0], bytes, sizeof bytes)) > 0)
        for (i = 0; i < got; i++) by |= bytes[i];
    return by;
}
#endif

/* ==========================================================================
 * >> room: memory, text -- where bytes live, and small words about them.
 *    Knows:  the allocator hook, the fixed block, buffers with a maximum, UTF-8, numbers.
 *    Not:    what the bytes mean.
 * ========================================================================== */

typedef struct gw__cell {       /* a piece of the fixed block; the next begins right behind it */
    size_t bytes;               /* with this head */
    size_t used;
} gw__cell;

#define GW__MEM_SPARES 4u
#define GW__MEM_SPARE_MIN (4u * 1024u)
#define GW__MEM_SPARE_MAX (64u * 1024u)

typedef struct gw__mem {
    void *(*alloc)(void *user, void *old, size_t old_bytes, size_t new_bytes);
    void *user;
    /* Buffers that one connection needed while something came in, for the next one that does: so a
     * thousand idle ones share a few, and find them where there is no more memory. In use, as far as
     * the counts below go. */
    struct { void *bytes; size_t len; } spares[GW__MEM_SPARES];
    uint32_t keeps_spares, spare_turn;
    uint8_t *block;             /* config.memory, or NULL */
    size_t block_bytes;
    uint64_t now_bytes, peak_bytes;
    uint32_t in_hook;           /* 1 while the caller's allocator runs */
} gw__mem;

#define GW__CELL_ALIGN 16u

static void *gw__mem_heap(void *user, void *old, size_t old_bytes, size_t new_bytes)
{
    (void)user; (void)old_bytes;
    if (new_bytes) return realloc(old, new_bytes);
    free(old);
    return NULL;
}

static void gw__mem_init(gw__mem *mem, void *(*alloc)(void *, void *, size_t, size_t), void *user)
{
    memset(mem, 0, sizeof *mem);
    mem->alloc = alloc ? alloc : gw__mem_heap;
    mem->user = user;
}

/* From now on everything comes out of `block`: a list of cells, first fit, neighbours joined as
 * it is walked. A client has a few dozen cells, so a walk is short. */
static int gw__mem_init_block(gw__mem *mem, void *block, size_t bytes)
{
    size_t skip = (GW__CELL_ALIGN - (size_t)((uintptr_t)block % GW__CELL_ALIGN)) % GW__CELL_ALIGN;
    gw__cell *cell;
    gw__mem_init(mem, NULL, NULL);
    if (bytes < skip + 4 * GW__CELL_ALIGN) return 0;
    mem->block = (uint8_t *)block + skip;
    mem->block_bytes = (bytes - skip) / GW__CELL_ALIGN * GW__CELL_ALIGN;
    cell = (gw__cell *)(void *)mem->block;
    cell->bytes = mem->block_bytes;
    cell->used = 0;
    return 1;
}

static gw__cell *gw__mem_next_cell(const gw__mem *mem, gw__cell *cell)
{
    uint8_t *next = (uint8_t *)cell + cell->bytes;
    return next < mem->block + mem->block_bytes ? (gw__cell *)(void *)next : NULL;
}

static void gw__mem_join(const gw__mem *mem, gw__cell *cell)
{
    gw__cell *next;
    while ((next = gw__mem_next_cell(mem, cell)) != NULL && !next->used) cell->bytes += next->bytes;
}

/* Takes `need` bytes (with the head) of a free cell and leaves the rest as a free cell. */
static void gw__mem_split(gw__cell *cell, size_t need)
{
    if (cell->bytes - need >= 2 * GW__CELL_ALIGN) {
        gw__cell *rest = (gw__cell *)(void *)((uint8_t *)cell + need);
        rest->bytes = cell->bytes - need;
        rest->used = 0;
        cell->bytes = need;
    }
    cell->used = 1;
}

static size_t gw__mem_cell_bytes(size_t bytes)
{
    return (bytes + GW__CELL_ALIGN - 1) / GW__CELL_ALIGN * GW__CELL_ALIGN + GW__CELL_ALIGN;
}

/* For secrets: through a volatile pointer, or the compiler may leave out a store that nobody
 * reads. */
static void gw__mem_wipe(void *bytes, size_t len)
{
    volatile uint8_t *at = (volatile uint8_t *)bytes;
    for (; len > 0 && (uintptr_t)at % sizeof(uint64_t); len--) *at++ = 0;
    for (; len >= sizeof(uint64_t); len -= sizeof(uint64_t), at += sizeof(uint64_t))
        *(volatile uint64_t *)(volatile void *)at = 0;
    for (; len > 0; len--) *at++ = 0;
}

static void *gw__mem_block_new(gw__mem *mem, size_t bytes)
{
    gw__cell *cell = (gw__cell *)(void *)mem->block;
    size_t need;
    if (bytes > mem->block_bytes) return NULL;
    need = gw__mem_cell_bytes(bytes);
    for (; cell; cell = gw__mem_next_cell(mem, cell)) {
        if (cell->used) continue;
        gw__mem_join(mem, cell);
        if (cell->bytes < need) continue;
        gw__mem_split(cell, need);
        return (uint8_t *)cell + GW__CELL_ALIGN;
    }
    return NULL;
}

static void *gw__mem_block_resize(gw__mem *mem, void *old, size_t old_bytes, size_t new_bytes)
{
    gw__cell *cell = (gw__cell *)(void *)((uint8_t *)old - GW__CELL_ALIGN);
    void *moved;
    size_t need;
    if (new_bytes == 0) {
        cell->used = 0;
        return NULL;
    }
    if (new_bytes > mem->block_bytes) return NULL;
    need = gw__mem_cell_bytes(new_bytes);
    gw__mem_join(mem, cell);                    /* grow in place where the neighbour is free */
    if (cell->bytes >= need) {
        gw__mem_split(cell, need);
        return old;
    }
    moved = gw__mem_block_new(mem, new_bytes);
    if (!moved) {
        gw__mem_split(cell, gw__mem_cell_bytes(old_bytes));
        return NULL;
    }
    memcpy(moved, old, GW__MIN(old_bytes, new_bytes));
    gw__mem_wipe(old, old_bytes);               /* it may have held the token */
    cell->used = 0;
    return moved;
}

static void *gw__mem_ask(gw__mem *mem, void *old, size_t old_bytes, size_t new_bytes)
{
    void *fresh;
    mem->in_hook = 1;
    fresh = mem->alloc(mem->user, old, old_bytes, new_bytes);
    mem->in_hook = 0;
    return fresh;
}

static void *gw__mem_take_spare(gw__mem *mem, size_t bytes)
{
    uint32_t i;
    void *spare;
    for (i = 0; i < GW__MEM_SPARES; i++) {
        if (!mem->spares[i].bytes || mem->spares[i].len != bytes) continue;
        spare = mem->spares[i].bytes;
        mem->spares[i].bytes = NULL;
        return spare;
    }
    return NULL;
}

static void gw__mem_drop_spare(gw__mem *mem, uint32_t i)
{
    if (!mem->spares[i].bytes) return;
    gw__mem_ask(mem, mem->spares[i].bytes, mem->spares[i].len, 0);
    mem->now_bytes -= mem->spares[i].len;
    mem->spares[i].bytes = NULL;
}

static void gw__mem_drop_spares(gw__mem *mem)
{
    uint32_t i;
    for (i = 0; i < GW__MEM_SPARES; i++) gw__mem_drop_spare(mem, i);
    mem->keeps_spares = 0;
}

/* In an empty place, or instead of the one that was kept longest. 0: it is not of a kind to
 * keep. */
static int gw__mem_keep_spare(gw__mem *mem, void *bytes, size_t len)
{
    uint32_t i = 0;
    if (!mem->keeps_spares || len < GW__MEM_SPARE_MIN || len > GW__MEM_SPARE_MAX) return 0;
    while (i < GW__MEM_SPARES && mem->spares[i].bytes) i++;
    if (i == GW__MEM_SPARES) i = mem->spare_turn++ % GW__MEM_SPARES;
    gw__mem_drop_spare(mem, i);
    mem->spares[i].bytes = bytes;
    mem->spares[i].len = len;
    return 1;
}

/* NULL: no room, and `old` stays as it was. new_bytes 0 frees. */
static void *gw__mem_resize(gw__mem *mem, void *old, size_t old_bytes, size_t new_bytes)
{
    void *fresh;
    if (!old && new_bytes == 0) return NULL;
    if (!old && (fresh = gw__mem_take_spare(mem, new_bytes)) != NULL) return fresh;
    if (!new_bytes && gw__mem_keep_spare(mem, old, old_bytes)) return NULL;
    if (!mem->block)
        fresh = gw__mem_ask(mem, old, old_bytes, new_bytes);
    else
        fresh = old ? gw__mem_block_resize(mem, old, old_bytes, new_bytes)
                    : gw__mem_block_new(mem, new_bytes);
    if (!fresh && new_bytes) return NULL;
    mem->now_bytes += new_bytes;
    mem->now_bytes -= old ? old_bytes : 0;
    if (mem->now_bytes > mem->peak_bytes) mem->peak_bytes = mem->now_bytes;
    return fresh;
}

static void *gw__mem_new(gw__mem *mem, size_t bytes)
{
    void *fresh = gw__mem_resize(mem, NULL, 0, bytes);
    if (fresh) memset(fresh, 0, bytes);
    return fresh;
}

static void gw__mem_free(gw__mem *mem, void *old, size_t bytes)
{
    if (old) gw__mem_resize(mem, old, bytes, 0);
}

/* ---- buffers: the content is bytes[begin..end) ---- */
typedef struct gw__buf {
    gw__mem *mem;
    uint8_t *bytes;
    size_t begin, end, cap, max;
    /* the token may be in it: no copy is left behind where it grows */
    uint32_t is_secret;
} gw__buf;

static void gw__buf_init(gw__buf *buf, gw__mem *mem, size_t max)
{
    memset(buf, 0, sizeof *buf);
    buf->mem = mem;
    buf->max = max;
}

static size_t gw__buf_len(const gw__buf *buf)
{
    return buf->end - buf->begin;
}

static uint8_t *gw__buf_data(gw__buf *buf)
{
    return buf->bytes ? buf->bytes + buf->begin : NULL;
}

static void gw__buf_clear(gw__buf *buf)
{
    buf->begin = buf->end = 0;
}

static void gw__buf_consume(gw__buf *buf, size_t len)
{
    GW_ASSERT(len <= gw__buf_len(buf));
    buf->begin += len;
    if (buf->begin == buf->end) gw__buf_clear(buf);
}

/* An allocator may move what grows, and leave what was there. The fixed block wipes it itself. 0: no
 * memory, and all is as it was. */
static int gw__buf_grow(gw__buf *buf, size_t cap)
{
    int moves = buf->is_secret && buf->bytes && !buf->mem->block;
    void *fresh = moves ? gw__mem_resize(buf->mem, NULL, 0, cap)
                        : gw__mem_resize(buf->mem, buf->bytes, buf->cap, cap);
    if (!fresh) return 0;
    if (moves) {
        memcpy(fresh, buf->bytes, buf->end);
        gw__mem_wipe(buf->bytes, buf->cap);
        gw__mem_free(buf->mem, buf->bytes, buf->cap);
    }
    buf->bytes = (uint8_t *)fresh;
    buf->cap = cap;
    return 1;
}

/* Room for `more` bytes behind the content; 0: above the maximum, or no memory. Grows by
 * doubling. */
static int gw__buf_reserve(gw__buf *buf, size_t more)
{
    size_t len = gw__buf_len(buf), cap;
    if (more <= buf->cap - buf->end) return 1;
    if (more > buf->max || len > buf->max - more) return 0;
    if (buf->begin) {
        memmove(buf->bytes, buf->bytes + buf->begin, len);
        buf->begin = 0;
        buf->end = len;
        if (more <= buf->cap - len) return 1;
    }
    /* a block has nothing to waste */
    cap = buf->mem->block ? len + more : GW__MAX(buf->cap, 256u);
    while (cap < len + more) cap = cap > buf->max / 2 ? buf->max : cap * 2;
    return gw__buf_grow(buf, GW__MIN(cap, buf->max));
}

#define GW__EXPECT_FACTOR 16u

/* So many bytes are to come behind the content, if the peer keeps his word. Room for a large
 * payload is asked for at once, not by doubling, when it is no more than so many times the content:
 * who only promises gets no more of our memory. Without it all goes on as it would have. */
static void gw__buf_expect(gw__buf *buf, uint64_t more)
{
    size_t len = gw__buf_len(buf), all;
    if (more > buf->max - len || buf->begin) return;
    all = len + (size_t)more;
    if (all <= GW__MAX(buf->cap, 65536u) || all / GW__EXPECT_FACTOR > len) return;
    gw__buf_grow(buf, all);
}

static int gw__buf_append(gw__buf *buf, const void *bytes, size_t len)
{
    if (!gw__buf_reserve(buf, len)) return 0;
    if (len) memcpy(buf->bytes + buf->end, bytes, len);
    buf->end += len;
    return 1;
}

static void gw__buf_free(gw__buf *buf)
{
    gw__mem_free(buf->mem, buf->bytes, buf->cap);
    buf->bytes = NULL;
    buf->begin = buf->end = buf->cap = 0;
}

/* Gives memory above keep_bytes back once the content fits: one large payload must not stay for
 * ever. */
static void gw__buf_shrink(gw__buf *buf, size_t keep_bytes)
{
    void *smaller;
    if (buf->cap <= keep_bytes || gw__buf_len(buf) > keep_bytes) return;
    if (gw__buf_len(buf) == 0) {
        gw__buf_free(buf);
        return;
    }
    if (buf->begin) memmove(buf->bytes, buf->bytes + buf->begin, gw__buf_len(buf));
    buf->end -= buf->begin;
    buf->begin = 0;
    smaller = gw__mem_resize(buf->mem, buf->bytes, buf->cap, keep_bytes);
    if (!smaller) return;
    buf->bytes = (uint8_t *)smaller;
    buf->cap = keep_bytes;
}

/* ---- UTF-8 (RFC 3629), checked piece by piece ---- */
/* all zero: at the beginning of a character */
typedef struct gw__utf8 { uint32_t need, low, high; } gw__utf8;

static int gw__utf8_lead(gw__utf8 *state, uint8_t byte)
{
    state->low = 0x80;
    state->high = 0xBF;
    if (byte >= 0xC2 && byte <= 0xDF) state->need = 1;
    else if (byte >= 0xE0 && byte <= 0xEF) state->need = 2;
    else if (byte >= 0xF0 && byte <= 0xF4) state->need = 3;
    else return 0;
    if (byte == 0xE0) state->low = 0xA0;        /* no overlong forms */
    if (byte == 0xED) state->high = 0x9F;       /* no surrogates */
    if (byte == 0xF0) state->low = 0x90;
    if (byte == 0xF4) state->high = 0x8F;       /* nothing above U+10FFFF */
    return 1;
}

/* How many bytes from here on are ASCII, or a few less. */
static size_t gw__utf8_ascii_len(const uint8_t *bytes, size_t len)
{
    size_t at = 0;
    uint64_t eight;
#ifdef GW__SIMD
    for (; len - at >= 64; at += 64) {
        const __m128i *in = (const __m128i *)(const void *)(bytes + at);
        __m128i low = _mm_or_si128(_mm_loadu_si128(in), _mm_loadu_si128(in + 1));
        __m128i high = _mm_or_si128(_mm_loadu_si128(in + 2), _mm_loadu_si128(in + 3));
        if (_mm_movemask_epi8(_mm_or_si128(low, high))) break;
    }
    for (; len - at >= 16; at += 16) {
        int high = _mm_movemask_epi8(_mm_loadu_si128((const __m128i *)(const void *)(bytes + at)));
        if (high) return at + (size_t)__builtin_ctz((unsigned)high);
    }
#endif
    for (; len - at >= 8; at += 8) {
        memcpy(&eight, bytes + at, 8);
        if (eight & UINT64_C(0x8080808080808080)) break;
    }
    return at;
}

/* 0: not UTF-8. */
static int gw__utf8_push(gw__utf8 *state, const uint8_t *bytes, size_t len)
{
    size_t i = 0;
    while (i < len) {
        if (state->need) {
            if (bytes[i] < state->low || bytes[i] > state->high) return 0;
            state->need--;
            state->low = 0x80;
            state->high = 0xBF;
            i++;
            continue;
        }
        if (bytes[i] < 0x80) i += gw__utf8_ascii_len(bytes + i, len - i);
        while (i < len && bytes[i] < 0x80) i++;
        if (i < len && !gw__utf8_lead(state, bytes[i++])) return 0;
    }
    return 1;
}

static int gw__utf8_whole(const gw__utf8 *state)
{
    return state->need == 0;
}

static int gw__utf8_is(const char *text, size_t len)
{
    gw__utf8 state;
    memset(&state, 0, sizeof state);
    return gw__utf8_push(&state, (const uint8_t *)text, len) && gw__utf8_whole(&state);
}

/* ---- text ---- */

/* The largest length up to `len` that does not end inside a character. */
static size_t gw__text_cut(const char *text, size_t len)
{
    size_t back = 0;
    while (back < 3 && back < len && ((uint8_t)text[len - 1 - back] & 0xC0) == 0x80) back++;
    if (back < len && (uint8_t)text[len - 1 - back] >= 0xC0 &&
        !gw__utf8_is(text + len - 1 - back, back + 1)) return len - 1 - back;
    return len;
}

static size_t gw__text_format_list(char *out, size_t cap, const char *format, va_list list)
    GW__FORMAT(3, 0);
static size_t gw__text_format(char *out, size_t cap, const char *format, ...) GW__FORMAT(3, 4);

static size_t gw__text_format_list(char *out, size_t cap, const char *format, va_list list)
{
    int full = vsnprintf(out, cap, format, list);
    size_t len = full < 0 ? 0 : (size_t)full;
    if (cap == 0) return 0;
    if (len >= cap) len = gw__text_cut(out, cap - 1);
    out[len] = 0;
    return len;
}

/* Always 0-terminated, cut between characters; the length written. */
static size_t gw__text_format(char *out, size_t cap, const char *format, ...)
{
    va_list list;
    size_t len;
    va_start(list, format);
    len = gw__text_format_list(out, cap, format, list);
    va_end(list);
    return len;
}

/* 1: decimal digits, at least one, and the number fits. */
static int gw__text_to_u64(const char *text, size_t len, uint64_t *out)
{
    uint64_t value = 0;
    size_t i;
    if (len == 0) return 0;
    for (i = 0; i < len; i++) {
        uint32_t digit = (uint32_t)(uint8_t)text[i] - '0';
        if (digit > 9 || value > (UINT64_MAX - digit) / 10) return 0;
        value = value * 10 + digit;
    }
    *out = value;
    return 1;
}

static char gw__text_lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

static int gw__text_same_nocase(const char *text, size_t len, const char *word)
{
    size_t i;
    for (i = 0; i < len; i++)
        if (word[i] == 0 || gw__text_lower(text[i]) != gw__text_lower(word[i])) return 0;
    return word[len] == 0;
}

/* A peer's bytes inside our sentence: control bytes, and bytes that are no UTF-8, become '?'. */
static size_t gw__text_printable(char *out, size_t cap, const void *bytes, size_t len)
{
    const char *text = (const char *)bytes;
    size_t i, n = GW__MIN(len, cap ? cap - 1 : 0);
    int is_utf8;
    if (cap == 0) return 0;
    n = gw__text_cut(text, n);
    is_utf8 = gw__utf8_is(text, n);
    for (i = 0; i < n; i++) {
        uint8_t byte = (uint8_t)text[i];
        out[i] = byte < 0x20 || byte == 0x7F || (byte >= 0x80 && !is_utf8) ? '?' : text[i];
    }
    out[n] = 0;
    return n;
}

static size_t gw__text_base64(char *out, size_t cap, const uint8_t *bytes, size_t len)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t i, n = 0;
    if (cap < (len + 2) / 3 * 4 + 1) {
        if (cap) out[0] = 0;
        return 0;
    }
    for (i = 0; i < len; i += 3) {
        uint32_t b1 = i + 1 < len ? bytes[i + 1] : 0u, b2 = i + 2 < len ? bytes[i + 2] : 0u;
        uint32_t group = (uint32_t)bytes[i] << 16 | b1 << 8 | b2;
        out[n++] = digits[group >> 18];
        out[n++] = digits[group >> 12 & 63];
        out[n++] = i + 1 < len ? digits[group >> 6 & 63] : '=';
        out[n++] = i + 2 < len ? digits[group & 63] : '=';
    }
    out[n] = 0;
    return n;
}

/* ==========================================================================
 * >> room: log, tables -- sentences: what went wrong, as data; names of what there is.
 *    Knows:  the log hook, what must never be in a text, the X-macro tables of the public part.
 *    Not:    who logs, and why.
 * ========================================================================== */

#define GW__FAULT_TEXT_MAX 400
typedef struct gw__fault {          /* why something ended; a value that is handed up */
    uint32_t reason;                /* enum gw_reason; GW_REASON_NONE: nothing is wrong */
    int32_t  code;                  /* close code or HTTP status; 0: none */
    char     text[GW__FAULT_TEXT_MAX];
} gw__fault;

static void gw__fault_set(gw__fault *fault, uint32_t reason, int32_t code, const char *format, ...)
    GW__FORMAT(4, 5);

/* The first fault stays: what follows from it would only hide the cause. */
static void gw__fault_set(gw__fault *fault, uint32_t reason, int32_t code, const char *format, ...)
{
    va_list list;
    if (fault->reason) return;
    fault->reason = reason;
    fault->code = code;
    va_start(list, format);
    gw__text_format_list(fault->text, sizeof fault->text, format, list);
    va_end(list);
}

typedef struct gw__logger {
    void (*hook)(void *user, uint32_t level, int32_t shard, const char *text);
    void *user;
    uint32_t level;                 /* the most detailed one that the hook wants */
    uint32_t in_hook;
    const char *secret;             /* the token: appears in no text */
} gw__logger;

#define GW__REDACT_FROM 8u      /* characters: so much of a token tells that it is one */

/* How much of the secret stands here; 0: less than tells that it is one. */
static size_t gw__text_secret_here(const char *text, const char *secret, size_t len)
{
    size_t same = 0;
    while (same < len && text[same] == secret[same]) same++;
    return same >= GW__MIN(len, GW__REDACT_FROM) ? same : 0;
}

/* Overwrites every occurrence of the secret, since a server may send back what we sent it; also
 * what a cut has left of one. */
static void gw__text_redact(char *text, const char *secret)
{
    size_t len = secret ? strlen(secret) : 0, here;
    if (len < 4) return;
    while (*text) {
        here = gw__text_secret_here(text, secret, len);
        memset(text, '*', here);
        text += here ? here : 1;
    }
}

/* Would it find one? */
static int gw__text_shows(const char *text, const char *secret)
{
    size_t len = secret ? strlen(secret) : 0;
    if (len < 4) return 0;
    while (*text && !gw__text_secret_here(text, secret, len)) text++;
    return *text != 0;
}

static void gw__log(gw__logger *logger, uint32_t level, int32_t shard, const char *format, ...)
    GW__FORMAT(4, 5);

static int gw__log_wants(const gw__logger *logger, uint32_t level)
{
    return logger->hook && level <= logger->level;
}

/* A text of any length, which is redacted in place. */
static void gw__log_text(gw__logger *logger, uint32_t level, int32_t shard, char *text)
{
    gw__text_redact(text, logger->secret);
    logger->in_hook = 1;
    logger->hook(logger->user, level, shard, text);
    logger->in_hook = 0;
}

static void gw__log(gw__logger *logger, uint32_t level, int32_t shard, const char *format, ...)
{
    char text[512];
    va_list list;
    if (!gw__log_wants(logger, level)) return;
    va_start(list, format);
    gw__text_format_list(text, sizeof text, format, list);
    va_end(list);
    gw__log_text(logger, level, shard, text);
}

static const char *gw__result_text(int32_t result)
{
#define GW__RESULT_TEXT(name, value, text) case value: return text;
    switch (result) {
    GW_RESULTS(GW__RESULT_TEXT)
    default: return "";
    }
#undef GW__RESULT_TEXT
}

static const char *const gw__dispatch_names[] = {
    "",
#define GW__DISPATCH_NAME(name) #name,
    GW_DISPATCHES(GW__DISPATCH_NAME)
#undef GW__DISPATCH_NAME
};

GW_API const char *gw_name_of(uint32_t type)
{
#define GW__NOTICE_NAME(name, value, text) case value: return #name;
    if (type < GW_DISPATCH_END_) return gw__dispatch_names[type];
    switch (type) {
    GW_NOTICES(GW__NOTICE_NAME)
    default: return "";
    }
#undef GW__NOTICE_NAME
}

/* From a dispatch's name to its number: 256 slots, open addressing, filled once per client. */
typedef struct gw__names { uint8_t slot[256], len[GW_DISPATCH_END_]; } gw__names;

/* Of the first and the last eight letters; two names that share them share a slot's neighbours. */
static uint32_t gw__name_hash(const char *name, size_t len)
{
    uint64_t first = 0, last = 0;
    size_t part = GW__MIN(len, 8);
    memcpy(&first, name, part);
    memcpy(&last, name + len - part, part);
    return (uint32_t)((first * 31u + last + len) * UINT64_C(0x9E3779B97F4A7C15) >> 56);
}

static void gw__names_init(gw__names *names)
{
    uint32_t type, slot;
    memset(names, 0, sizeof *names);
    for (type = 1; type < GW_DISPATCH_END_; type++) {
        names->len[type] = (uint8_t)strlen(gw__dispatch_names[type]);
        slot = gw__name_hash(gw__dispatch_names[type], names->len[type]);
        while (names->slot[slot]) slot = (slot + 1) & 255u;
        names->slot[slot] = (uint8_t)type;
    }
}

/* GW_UNKNOWN_DISPATCH for a name that this version does not know. */
static uint32_t gw__names_find(const gw__names *names, const char *name, size_t len)
{
    uint32_t slot = gw__name_hash(name, len), type;
    while ((type = names->slot[slot]) != 0) {
        if (names->len[type] == len && memcmp(gw__dispatch_names[type], name, len) == 0)
            return type;
        slot = (slot + 1) & 255u;
    }
    return GW_UNKNOWN_DISPATCH;
}


/* ==========================================================================
 * >> room: url -- the text of an address to its parts, and who may stand in for whom.
 *    Knows:  schemes, hosts, IP literals, ports, request targets, the Gateway's parameters.
 *    Not:    DNS, sockets, HTTP. No byte is taken here that could break out of a request line.
 * ========================================================================== */

#define GW__HOST_MAX 256
#define GW__PATH_MAX 512
#define GW__TARGET_MAX (GW__PATH_MAX + 64)      /* has room for the Gateway's parameters too */

typedef struct gw__url {
    uint32_t secure;                /* wss or https */
    uint32_t http;                  /* http/https rather than ws/wss */
    uint16_t port;                  /* filled in: 443 or 80 */
    char     host[GW__HOST_MAX];    /* lower case; IPv6 without its brackets */
    char     target[GW__PATH_MAX];  /* path and query as given; begins with '/' */
} gw__url;

/* No sentence shows the whole text: a URL with a password in it is refused, not printed. */
static int gw__url_refuse(gw__fault *fault, const char *why)
{
    gw__fault_set(fault, GW_REASON_CONFIG, 0, "URL: %s", why);
    return 0;
}

static int gw__url_refuse_host(gw__fault *fault, const char *host, size_t len, const char *why)
{
    char shown[96];
    gw__text_printable(shown, sizeof shown, host, len);
    gw__fault_set(fault, GW_REASON_CONFIG, 0, "URL: host \"%s\" %s", shown, why);
    return 0;
}

/* -- addresses that are written as numbers -- */

static int gw__url_is_digit(char byte)
{
    return byte >= '0' && byte <= '9';
}

/* Four decimal numbers without leading zeros: where resolvers disagree ("010", "127.1", "0x7f.1")
 * we take no side. */
static int gw__url_ipv4(const char *text, size_t len, uint8_t address[4])
{
    size_t at = 0, i;
    for (i = 0; i < 4; i++) {
        size_t begin;
        uint32_t value = 0;
        if (i > 0 && (at == len || text[at++] != '.')) return 0;
        for (begin = at; at < len && at - begin < 3 && gw__url_is_digit(text[at]); at++)
            value = value * 10 + (uint32_t)(text[at] - '0');
        if (at == begin || value > 255 || (at - begin > 1 && text[begin] == '0')) return 0;
        address[i] = (uint8_t)value;
    }
    return at == len;
}

/* Up to four hexadecimal digits; how many there were. */
static size_t gw__url_hex_group(const char *text, size_t len, uint32_t *value)
{
    size_t at;
    *value = 0;
    for (at = 0; at < len && at < 4; at++) {
        char low = (char)(text[at] | 0x20);
        if (gw__url_is_digit(text[at])) *value = *value << 4 | (uint32_t)(text[at] - '0');
        else if (low >= 'a' && low <= 'f') *value = *value << 4 | (uint32_t)(low - 'a' + 10);
        else break;
    }
    return at;
}

/* RFC 4291 section 2.2, without a zone. One thought: groups fill from the front, and those behind
 * "::" move to the end. */
static int gw__url_ipv6(const char *text, size_t len, uint8_t address[16])
{
    size_t at = 0, filled = 0, gap = 16, digits;    /* gap 16: no "::" seen */
    uint32_t group;
    memset(address, 0, 16);
    if (len >= 2 && text[0] == ':' && text[1] == ':') {
        gap = 0;
        at = 2;
    }
    while (at < len) {
        digits = gw__url_hex_group(text + at, len - at, &group);
        if (digits == 0 || filled == 16) return 0;
        if (at + digits < len && text[at + digits] == '.') {    /* the last 32 bits as IPv4 */
            if (filled > 12 || !gw__url_ipv4(text + at, len - at, address + filled)) return 0;
            filled += 4;
            break;
        }
        address[filled++] = (uint8_t)(group >> 8);
        address[filled++] = (uint8_t)(group & 255);
        at += digits;
        if (at == len) break;
        if (text[at++] != ':' || at == len) return 0;
        if (text[at] == ':') {
            if (gap != 16 || filled == 16) return 0;
            gap = filled;
            at++;
        }
    }
    if (gap == 16) return filled == 16;
    if (filled == 16) return 0;         /* "::" stands for one group at least */
    memmove(address + 16 - (filled - gap), address + gap, filled - gap);
    memset(address + gap, 0, 16 - filled);
    return 1;
}

static int gw__url_is_ip(const char *host)
{
    uint8_t address[16];
    return gw__url_ipv4(host, strlen(host), address) || gw__url_ipv6(host, strlen(host), address);
}

static int gw__url_is_loopback(const gw__url *url)
{
    static const uint8_t one[16] = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1 };
    uint8_t address[16];
    size_t len = strlen(url->host);
    if (gw__url_ipv4(url->host, len, address)) return address[0] == 127;
    if (gw__url_ipv6(url->host, len, address)) return memcmp(address, one, 16) == 0;
    return strcmp(url->host, "localhost") == 0;
}

/* -- parsing: scheme://host[:port][/path][?query] -- */

static int gw__url_check_bytes(const char *text, size_t len, gw__fault *fault)
{
    size_t at;
    for (at = 0; at < len; at++) {
        uint8_t byte = (uint8_t)text[at];
        if (byte >= 0x80)
            return gw__url_refuse(fault, "has a byte beyond ASCII; write the host in punycode "
                                         "(xn--...) and the path percent-encoded");
        if (byte <= 0x20 || byte == 0x7f)
            return gw__url_refuse(fault, "has a space or a control byte in it; "
                                         "was a line end copied along?");
        if (byte == '#')
            return gw__url_refuse(fault, "has a fragment (#...), which never reaches a server; "
                                         "leave it out");
    }
    return 1;
}

/* How many bytes the scheme took, "://" included; 0: none that we know. */
static size_t gw__url_take_scheme(gw__url *url, const char *text, size_t len)
{
    static const struct { const char *prefix; uint16_t port; uint8_t secure, http; } schemes[] = {
        { "wss://",   443, 1, 0 }, { "ws://",   80, 0, 0 },
        { "https://", 443, 1, 1 }, { "http://", 80, 0, 1 }
    };
    size_t i;
    for (i = 0; i < sizeof schemes / sizeof *schemes; i++) {
        const char *prefix = schemes[i].prefix;
        size_t prefix_len = strlen(prefix);
        if (len < prefix_len || !gw__text_same_nocase(text, prefix_len, prefix)) continue;
        url->secure = schemes[i].secure;
        url->http = schemes[i].http;
        url->port = schemes[i].port;
        return prefix_len;
    }
    return 0;
}

static void gw__url_keep_host(gw__url *url, const char *text, size_t len)
{
    size_t at;
    for (at = 0; at < len; at++)
        url->host[at] = (char)(text[at] >= 'A' && text[at] <= 'Z' ? text[at] + 32 : text[at]);
    url->host[len] = 0;
}

/* A host that ends in a number is an IPv4 address or a mistake (WHATWG URL, "ends in a number
 * checker"). */
static int gw__url_ends_in_number(const char *text, size_t len)
{
    size_t begin = len;
    while (begin > 0 && text[begin - 1] != '.') begin--;
    if (len - begin >= 2 && text[begin] == '0' && (text[begin + 1] | 0x20) == 'x') return 1;
    while (begin < len && gw__url_is_digit(text[begin])) begin++;
    return begin == len;
}

/* RFC 1123 section 2.1, and '_', which container networks use. */
static int gw__url_is_name_byte(char byte)
{
    char low = (char)(byte | 0x20);
    return (low >= 'a' && low <= 'z') || gw__url_is_digit(byte) || byte == '-' || byte == '_';
}

static int gw__url_is_name(const char *text, size_t len)
{
    size_t at, label = 0;
    if (len > 253) return 0;
    for (at = 0; at < len; at++) {
        if (text[at] == '.') {
            if (label == 0) return 0;
            label = 0;
        } else if (!gw__url_is_name_byte(text[at]) || ++label > 63) {
            return 0;
        }
    }
    return label > 0;
}

static size_t gw__url_take_name(gw__url *url, const char *text, size_t len, gw__fault *fault)
{
    const char *colon = (const char *)memchr(text, ':', len);
    size_t host_len = colon ? (size_t)(colon - text) : len;
    uint8_t address[4];
    if (host_len == 0) return (size_t)gw__url_refuse(fault, "has no host; write it as wss://host");
    if (!gw__url_is_name(text, host_len))
        return (size_t)gw__url_refuse_host(fault, text, host_len,
            "is no host name: letters, digits, '-' and '_', labels of 1 to 63 between single dots, "
            "no dot at the end, 253 in all");
    if (gw__url_ends_in_number(text, host_len) && !gw__url_ipv4(text, host_len, address))
        return (size_t)gw__url_refuse_host(fault, text, host_len,
            "ends in a number but is no IPv4 address (four decimal numbers up to 255, "
            "without leading zeros)");
    gw__url_keep_host(url, text, host_len);
    return host_len;
}

static size_t gw__url_take_ipv6(gw__url *url, const char *text, size_t len, gw__fault *fault)
{
    const char *bracket = (const char *)memchr(text, ']', len);
    uint8_t address[16];
    size_t host_len = bracket ? (size_t)(bracket - text) - 1 : 0;
    if (!bracket || !gw__url_ipv6(text + 1, host_len, address))
        return (size_t)gw__url_refuse_host(fault, text, len,
            "is no IPv6 address in brackets, such as [::1] (a zone like %eth0 is not taken)");
    gw__url_keep_host(url, text + 1, host_len);
    return host_len + 2;
}

static int gw__url_take_port(gw__url *url, const char *text, size_t len, gw__fault *fault)
{
    uint64_t port;
    if (len == 0) return 1;
    if (text[0] != ':' || len > 6 || !gw__text_to_u64(text + 1, len - 1, &port) || port < 1
        || port > 65535)
        return gw__url_refuse_host(fault, url->host, strlen(url->host),
            "is not followed by a port from 1 to 65535, such as :8443");
    url->port = (uint16_t)port;
    return 1;
}

static int gw__url_take_authority(gw__url *url, const char *text, size_t len, gw__fault *fault)
{
    size_t host_len;
    if (memchr(text, '@', len))
        return gw__url_refuse(fault, "has a user name or password before an '@'; leave it out");
    host_len = len > 0 && text[0] == '[' ? gw__url_take_ipv6(url, text, len, fault)
                                         : gw__url_take_name(url, text, len, fault);
    return host_len > 0 && gw__url_take_port(url, text + host_len, len - host_len, fault);
}

static int gw__url_take_target(gw__url *url, const char *text, size_t len, gw__fault *fault)
{
    size_t slash = len > 0 && text[0] == '/' ? 0 : 1;   /* "wss://host?x=1" has the path "/" */
    if (len + slash >= sizeof url->target)
        return gw__url_refuse(fault, "has a path and query of more than 510 bytes");
    url->target[0] = '/';
    memcpy(url->target + slash, text, len);
    url->target[len + slash] = 0;
    return 1;
}

/* Takes ws, wss, http and https: url->http tells the caller which kind it got. */
static int gw__url_parse(gw__url *url, const char *text, size_t len, gw__fault *fault)
{
    size_t scheme_len, host_end;
    memset(url, 0, sizeof *url);
    if (!gw__url_check_bytes(text, len, fault)) return 0;
    scheme_len = gw__url_take_scheme(url, text, len);
    if (scheme_len == 0)
        return gw__url_refuse(fault, "begins with no scheme we know; "
                                     "a gateway is written wss://host");
    for (host_end = scheme_len; host_end < len; host_end++)
        if (text[host_end] == '/' || text[host_end] == '?') break;
    return gw__url_take_authority(url, text + scheme_len, host_end - scheme_len, fault)
        && gw__url_take_target(url, text + host_end, len - host_end, fault);
}

/* -- writing -- */

static const char *gw__url_scheme(const gw__url *url)
{
    if (url->http) return url->secure ? "https" : "http";
    return url->secure ? "wss" : "ws";
}

/* "host", "host:8443", "[::1]:8443": as a Host header or a URL wants it, the port only if it is not
 * the default. */
static size_t gw__url_write_host(const gw__url *url, char *out, size_t cap)
{
    int is_ipv6 = strchr(url->host, ':') != NULL;
    size_t len = gw__text_format(out, cap, is_ipv6 ? "[%s]" : "%s", url->host);
    if (url->port != (url->secure ? 443 : 80))
        len += gw__text_format(out + len, cap - len, ":%u", (unsigned)url->port);
    return len;
}

static size_t gw__url_write(const gw__url *url, char *out, size_t cap)
{
    size_t len = gw__text_format(out, cap, "%s://", gw__url_scheme(url));
    len += gw__url_write_host(url, out + len, cap - len);
    return len + gw__text_format(out + len, cap - len, "%s", url->target);
}

/* -- what may be used for what -- */

/* Plain text only to this machine: the token travels in it. */
static int gw__url_allowed(const gw__url *url, gw__fault *fault)
{
    const char *scheme = gw__url_scheme(url);
    if (url->secure || gw__url_is_loopback(url)) return 1;
    gw__fault_set(fault, GW_REASON_CONFIG, 0,
        "URL: %s://%s would carry the token in clear text; use %ss:// "
        "(plain text goes to localhost, 127.x.x.x and [::1] only)", scheme, url->host, scheme);
    return 0;
}

/* A Gateway is a WebSocket, and reached safely. */
static int gw__url_fits_gateway(const gw__url *url, gw__fault *fault)
{
    const char *better = url->secure || !gw__url_is_loopback(url) ? "wss" : "ws";
    char host[GW__HOST_MAX + 16];
    if (!url->http) return gw__url_allowed(url, fault);
    gw__url_write_host(url, host, sizeof host);
    gw__fault_set(fault, GW_REASON_CONFIG, 0, "URL: %s://%s is no WebSocket address; write %s://%s",
        gw__url_scheme(url), host, better, host);
    return 0;
}

static int gw__url_same_address(const char *first, const char *second)
{
    uint8_t one[16], two[16];
    if (!gw__url_ipv6(first, strlen(first), one)) return strcmp(first, second) == 0;
    return gw__url_ipv6(second, strlen(second), two) && memcmp(one, two, 16) == 0;
}

/* Is `offered` below the parent of `cached`? gateway.discord.gg has the parent discord.gg. A parent
 * of one label would be a whole top-level domain and counts for nothing, so a host of two labels,
 * like "localhost", stands for itself alone. */
static int gw__url_shares_parent(const char *cached, const char *offered)
{
    const char *parent = strchr(cached, '.');
    size_t parent_len, offered_len = strlen(offered);
    if (!parent || !strchr(parent + 1, '.')) return 0;
    if (gw__url_is_ip(cached) || gw__url_is_ip(offered)) return 0;
    parent_len = strlen(parent);        /* with its dot: "evildiscord.gg" is not below it */
    return offered_len > parent_len && strcmp(offered + offered_len - parent_len, parent) == 0;
}

/* May the resume URL that a server (or a saved session) offers take the place of the cached one?
 * The token goes there. The port is free: with TLS the certificate says who is there whatever the
 * port, and plain text stays on this machine. */
static int gw__url_may_replace(const gw__url *cached, const gw__url *offered, gw__fault *fault)
{
    if (cached->secure != offered->secure || cached->http != offered->http) {
        gw__fault_set(fault, GW_REASON_PROTOCOL, 0,
            "resume URL: %s://%s changes the scheme of %s://%s; not used",
            gw__url_scheme(offered), offered->host, gw__url_scheme(cached), cached->host);
        return 0;
    }
    if (gw__url_same_address(cached->host, offered->host)
        || gw__url_shares_parent(cached->host, offered->host)) return 1;
    gw__fault_set(fault, GW_REASON_PROTOCOL, 0,
        "resume URL: %s is neither %s nor below the same parent domain; not used",
        offered->host, cached->host);
    return 0;
}

/* -- the Gateway's own parameters (Discord docs, "Gateway URL Query String Params") -- */

/* One "name=value" of a query: is it a parameter that we set ourselves? A stale compress would
 * bring bytes we cannot read. */
static int gw__url_is_our_parameter(const char *part, size_t len)
{
    const char *equals = (const char *)memchr(part, '=', len);
    size_t name_len = equals ? (size_t)(equals - part) : len;
    return gw__text_same_nocase(part, name_len, "v")
        || gw__text_same_nocase(part, name_len, "encoding")
        || gw__text_same_nocase(part, name_len, "compress");
}

/* "/?v=10&encoding=json": the path and foreign parameters stay, ours are replaced. compress: NULL
 * for none. Returns the length; 0 if it does not fit, which cannot be if cap >= GW__TARGET_MAX. */
static size_t gw__url_gateway_target(const gw__url *url, const char *compress,
                                     char *out, size_t cap)
{
    const char *path_end = url->target + strcspn(url->target, "?");
    const char *part = path_end;
    size_t len = gw__text_format(out, cap, "%.*s?", (int)(path_end - url->target), url->target);
    while (*part) {
        size_t part_len = strcspn(++part, "&");
        if (part_len > 0 && !gw__url_is_our_parameter(part, part_len))
            len += gw__text_format(out + len, cap - len, "%.*s&", (int)part_len, part);
        part += part_len;
    }
    len += gw__text_format(out + len, cap - len, "v=10&encoding=json%s%s",
                           compress ? "&compress=" : "", compress ? compress : "");
    return len + 1 < cap ? len : 0;
}
/* ==========================================================================
 * >> room: net -- a host's name to addresses (DNS), and addresses to a stream of bytes (TCP).
 *    Knows:  the helper thread, the resolve hook, the transport hook, trying every address.
 *    Not:    TLS; what is said over the stream.
 * ========================================================================== */

#define GW__ADDRESSES_MAX 16u
/* between two questions to a resolve hook that said "ask again" */
#define GW__RESOLVE_AGAIN_MS 20u
#define GW__ADDRESS_TIMEOUT_MS 8000u    /* then the next address is tried */

typedef struct gw__net {                /* what all connections of a client share */
    gw__mem *mem;
    gw__logger *logger;
    gw__poller *poller;
    void *user;
    int32_t (*random)(void *user, void *bytes, size_t len);
    int32_t (*resolve)(void *user, const char *host, char *ip_text, size_t cap);
    const gw_transport *transport;
    uint32_t in_hook;
    uint32_t no_thread;  /* config.memory: a thread's stack would not come out of it */
} gw__net;

static int gw__net_random(gw__net *net, void *bytes, size_t len)
{
    int32_t got;
    if (!net->random) return gw__sys_random(bytes, len);
    net->in_hook = 1;
    got = net->random(net->user, bytes, len);
    net->in_hook = 0;
    return got >= 0;
}

/* ---- DNS ---- */
typedef enum gw__dns_found { GW__DNS_WAITING, GW__DNS_DONE, GW__DNS_FAILED } gw__dns_found;

#ifndef GW_NO_THREADS
/* Shared by the client and the helper thread that sits in getaddrinfo(); it may outlive the
 * client, so it lies in libc's heap, and whoever leaves last frees it. */
typedef struct gw__dns_job {
    gw__mutex mutex;
    uint32_t users, done, count;
    int error;
    intptr_t wake_end;                  /* GW__NO_FD once the client has left */
    char host[GW__HOST_MAX];
    gw__address found[GW__ADDRESSES_MAX];
} gw__dns_job;

static void gw__dns_job_leave(gw__dns_job *job)     /* mutex held */
{
    uint32_t left = --job->users;
    gw__sys_mutex_unlock(&job->mutex);
    if (left) return;
    gw__sys_mutex_free(&job->mutex);
    free(job);
}

static void *gw__dns_job_run(void *argument)
{
    gw__dns_job *job = (gw__dns_job *)argument;
    gw__address found[GW__ADDRESSES_MAX];
    int error = 0;
    uint32_t count = gw__sys_resolve(job->host, found, GW__ADDRESSES_MAX, &error);
    gw__sys_mutex_lock(&job->mutex);
    memcpy(job->found, found, count * sizeof *found);
    job->count = count;
    job->error = error;
    job->done = 1;
    if (job->wake_end != GW__NO_FD) gw__sys_wake(job->wake_end, GW__WOKEN_BY_HELPER);
    gw__dns_job_leave(job);
    return NULL;
}

static gw__dns_job *gw__dns_job_start(const char *host, intptr_t wake_end)
{
    gw__dns_job *job = (gw__dns_job *)calloc(1, sizeof *job);
    if (!job) return NULL;
    gw__sys_mutex_init(&job->mutex);
    gw__text_format(job->host, sizeof job->host, "%s", host);
    job->wake_end = wake_end;
    job->users = 2;
    if (gw__sys_thread(gw__dns_job_run, job)) return job;
    gw__sys_mutex_free(&job->mutex);
    free(job);
    return NULL;
}
#else
typedef struct gw__dns_job gw__dns_job;
#endif

typedef struct gw__dns {
    gw__dns_job *job;
    uint64_t ask_again_ms;
    uint32_t count;
    gw__address found[GW__ADDRESSES_MAX];
} gw__dns;

static void gw__dns_cancel(gw__dns *dns)
{
#ifndef GW_NO_THREADS
    if (dns->job) {
        gw__sys_mutex_lock(&dns->job->mutex);
        dns->job->wake_end = GW__NO_FD;
        gw__dns_job_leave(dns->job);
    }
#endif
    dns->job = NULL;
}

static void gw__dns_begin(gw__dns *dns)
{
    gw__dns_cancel(dns);
    dns->count = 0;
    dns->ask_again_ms = 0;
}

static gw__dns_found gw__dns_answer(gw__dns *dns, const char *host, int error, gw__fault *fault)
{
    if (dns->count) return GW__DNS_DONE;
    gw__fault_set(fault, GW_REASON_RESOLVE, 0, "DNS: cannot find %s: %s", host,
                  gw__sys_resolve_text(error));
    return GW__DNS_FAILED;
}

/* The hook answers with addresses as text, one blank between them. */
static gw__dns_found gw__dns_ask_hook(gw__dns *dns, gw__net *net, const char *host, uint64_t now_ms,
                                      gw__fault *fault)
{
    char text[GW__ADDRESSES_MAX * 48], *at = text, *end;
    int32_t answer;
    if (now_ms < dns->ask_again_ms) return GW__DNS_WAITING;
    memset(text, 0, sizeof text);
    net->in_hook = 1;
    answer = net->resolve(net->user, host, text, sizeof text);
    net->in_hook = 0;
    dns->ask_again_ms = now_ms + GW__RESOLVE_AGAIN_MS;
    if (answer == 0) return GW__DNS_WAITING;
    text[sizeof text - 1] = 0;
    while (answer > 0 && *at && dns->count < GW__ADDRESSES_MAX) {
        end = at + strcspn(at, " ");
        if (*end) *end++ = 0;
        if (*at && gw__sys_address_parse(at, 0, &dns->found[dns->count])) dns->count++;
        at = end;
    }
    if (dns->count) return GW__DNS_DONE;
    gw__fault_set(fault, GW_REASON_RESOLVE, 0, "DNS: config.resolve gave no address for %s", host);
    return GW__DNS_FAILED;
}

#ifndef GW_NO_THREADS
static gw__dns_found gw__dns_ask_thread(gw__dns *dns, gw__net *net, const char *host,
                                        gw__fault *fault)
{
    int error = 0, done;
    if (!dns->job) dns->job = gw__dns_job_start(host, gw__sys_poller_wake_end(net->poller));
    if (!dns->job) {
        gw__fault_set(fault, GW_REASON_RESOLVE, 0,
                      "DNS: the system gives no thread to look up %s in", host);
        return GW__DNS_FAILED;
    }
    gw__sys_mutex_lock(&dns->job->mutex);
    done = dns->job->done != 0;
    if (done) {
        dns->count = dns->job->count;
        error = dns->job->error;
        memcpy(dns->found, dns->job->found, sizeof dns->found);
    }
    gw__sys_mutex_unlock(&dns->job->mutex);
    if (!done) return GW__DNS_WAITING;
    gw__dns_cancel(dns);
    return gw__dns_answer(dns, host, error, fault);
}
#endif

/* Asks, or looks whether the answer is there. Blocks only where there is no thread to ask in. */
static gw__dns_found gw__dns_look(gw__dns *dns, gw__net *net, const char *host, uint64_t now_ms,
                                  gw__fault *fault)
{
    int error = 0;
    if (gw__sys_address_parse(host, 0, &dns->found[0])) {
        dns->count = 1;
        return GW__DNS_DONE;
    }
    if (net->resolve) return gw__dns_ask_hook(dns, net, host, now_ms, fault);
    /* RFC 6761 section 6.3: it needs no DNS, nor /etc/hosts */
    if (strcmp(host, "localhost") == 0) {
        dns->count = (uint32_t)gw__sys_address_parse("127.0.0.1", 0, &dns->found[0]) +
                     (uint32_t)gw__sys_address_parse("::1", 0, &dns->found[1]);
        return GW__DNS_DONE;
    }
#ifndef GW_NO_THREADS
    if (!net->no_thread) return gw__dns_ask_thread(dns, net, host, fault);
#endif
    dns->count = gw__sys_resolve(host, dns->found, GW__ADDRESSES_MAX, &error);
    return gw__dns_answer(dns, host, error, fault);
}

/* ---- TCP: a socket of ours, or a stream of the caller's transport ---- */
typedef enum gw__tcp_found { GW__TCP_WAITING, GW__TCP_DONE, GW__TCP_FAILED } gw__tcp_found;

typedef struct gw__tcp {
    intptr_t fd;
    void *stream;                       /* of config.transport */
    uint64_t tag;                       /* names this connection to the poller */
    uint32_t watched;                   /* GW__WANT_... the poller was told */
    uint32_t tried;                     /* addresses, in this attempt */
    uint32_t first_address;             /* where an attempt begins */
    uint32_t answered;                  /* the last one did */
    uint64_t deadline_ms;               /* of this address */
    int error;                          /* of the last failure */
} gw__tcp;

static void gw__tcp_init(gw__tcp *tcp)
{
    memset(tcp, 0, sizeof *tcp);
    tcp->fd = GW__NO_FD;
}

static void gw__tcp_watch(gw__tcp *tcp, gw__net *net, uint32_t want)
{
    if (tcp->fd == GW__NO_FD || want == tcp->watched) return;
    gw__sys_poller_want(net->poller, tcp->fd, tcp->tag, tcp->watched, want);
    tcp->watched = want;
}

static void gw__tcp_close(gw__tcp *tcp, gw__net *net)
{
    gw__tcp_watch(tcp, net, 0);
    if (tcp->stream) {
        net->in_hook = 1;
        net->transport->close(net->user, tcp->stream);
        net->in_hook = 0;
    } else {
        gw__sys_socket_close(tcp->fd);
    }
    tcp->stream = NULL;
    tcp->fd = GW__NO_FD;
}

/* The caller's own way to host:port; its bytes may flow at once. */
static gw__tcp_found gw__tcp_open_stream(gw__tcp *tcp, gw__net *net, const char *host,
                                         uint16_t port, gw__fault *fault)
{
    net->in_hook = 1;
    tcp->stream = net->transport->open(net->user, host, port);
    if (tcp->stream && net->transport->fd) tcp->fd = net->transport->fd(net->user, tcp->stream);
    net->in_hook = 0;
    if (tcp->stream) return GW__TCP_DONE;
    gw__fault_set(fault, GW_REASON_CONNECT, 0, "config.transport refused to connect to %s port %u",
                  host, (unsigned)port);
    return GW__TCP_FAILED;
}

/* The address that is tried as number `tried`, counted from 0. */
static gw__address *gw__tcp_address(const gw__tcp *tcp, gw__dns *dns, uint32_t tried)
{
    return &dns->found[(tcp->first_address + tried) % dns->count];
}

static gw__tcp_found gw__tcp_failed(const gw__tcp *tcp, gw__dns *dns, const char *host,
                                    uint16_t port, gw__fault *fault)
{
    char ip[64];
    gw__sys_address_text(gw__tcp_address(tcp, dns, tcp->tried ? tcp->tried - 1 : 0), ip, sizeof ip);
    gw__fault_set(fault, GW_REASON_CONNECT, 0,
                  "TCP: cannot connect to %s port %u (%s, %u of %u addresses tried): %s [%d]", host,
                  (unsigned)port, ip, (unsigned)tcp->tried, (unsigned)dns->count,
                  gw__sys_error_text(tcp->error), tcp->error);
    return GW__TCP_FAILED;
}

/* Dials one address after the other until one answers or none is left. */
static gw__tcp_found gw__tcp_dial(gw__tcp *tcp, gw__net *net, gw__dns *dns, const char *host,
                                  uint16_t port, uint64_t now_ms, gw__fault *fault)
{
    gw__address *address;
    int dialed;
    for (;;) {
        if (tcp->fd != GW__NO_FD) {
            dialed = gw__sys_socket_dialed(tcp->fd, &tcp->error);
            tcp->answered = dialed > 0;
            if (dialed > 0) return GW__TCP_DONE;
            if (dialed == 0 && now_ms < tcp->deadline_ms) return GW__TCP_WAITING;
            if (dialed == 0) tcp->error = ETIMEDOUT;
            gw__tcp_close(tcp, net);
        }
        if (tcp->tried == dns->count) return gw__tcp_failed(tcp, dns, host, port, fault);
        address = gw__tcp_address(tcp, dns, tcp->tried++);
        address->port = port;
        tcp->fd = gw__sys_socket_dial(address, &tcp->error);
        tcp->deadline_ms = now_ms + GW__ADDRESS_TIMEOUT_MS;
        gw__tcp_watch(tcp, net, GW__WANT_WRITE);
    }
}

/* A new attempt begins where the last one stopped: at the address that answered, or behind those
 * that did not. So each is tried some time, however long a list outlasts the deadline of one
 * attempt. */
static void gw__tcp_begin(gw__tcp *tcp, uint64_t tag)
{
    uint32_t first = tcp->first_address + tcp->tried - (tcp->answered ? 1u : 0u);
    gw__tcp_init(tcp);
    tcp->first_address = first;
    tcp->tag = tag;
}

/* > 0 bytes, GW__IO_AGAIN, GW__IO_ENDED, GW__IO_FAILED. */
static int32_t gw__tcp_read(gw__tcp *tcp, gw__net *net, void *bytes, size_t len)
{
    uint32_t part = (uint32_t)GW__MIN(len, 1u << 20);
    int32_t got;
    if (!tcp->stream) return gw__sys_socket_read(tcp->fd, bytes, part, &tcp->error);
    net->in_hook = 1;
    got = net->transport->read(net->user, tcp->stream, bytes, part);
    net->in_hook = 0;
    return got < 0 ? (int32_t)GW__IO_ENDED : (int32_t)GW__MIN((uint32_t)got, part);
}

static int32_t gw__tcp_write(gw__tcp *tcp, gw__net *net, const void *bytes, size_t len)
{
    uint32_t part = (uint32_t)GW__MIN(len, 1u << 20);
    int32_t put;
    if (!tcp->stream) return gw__sys_socket_write(tcp->fd, bytes, part, &tcp->error);
    net->in_hook = 1;
    put = net->transport->write(net->user, tcp->stream, bytes, part);
    net->in_hook = 0;
    return put < 0 ? (int32_t)GW__IO_ENDED : (int32_t)GW__MIN((uint32_t)put, part);
}

/* ==========================================================================
 * >> room: tls -- whom we trust; ciphertext in, plaintext out, and back.
 *    Knows:  BearSSL, X.509, where CA certificates come from, what each refusal means to a person.
 *    Not:    sockets, HTTP, WebSocket; the time and the random seed are handed in.
 *
 *    BearSSL verifies chains but gives one number for what are different problems. So our own
 *    br_x509_class stands before br_x509_minimal: it holds one certificate at a time, reads its
 *    dates, names and usages, picks the anchors by issuer, and only then hands it on. Checks are
 *    only ever added: without br_x509_minimal's consent nothing is accepted.
 * ========================================================================== */

#define GW__TRUST_ANCHORS_MAX 1000u                 /* a system's bundle has about 150 */
#define GW__TRUST_FILE_MAX    (4u * 1024u * 1024u)
#define GW__TRUST_NAME_MAX    1024u                 /* bytes of one CA's distinguished name */
#define GW__TLS_CERT_MAX      8192u                 /* bytes of one certificate from a server */
#define GW__TLS_PICKED_MAX    8u                    /* anchors of one name: a CA and its renewals */
/* 85 bytes are BearSSL's overhead, 1,024 the step it would round down to; a record fits one TCP
 * segment. */
#define GW__TLS_OUT_BYTES     (1024u + 85u)
/* a smaller one would limit what the peer may send */
#define GW__TLS_IN_BYTES      BR_SSL_BUFSIZE_INPUT

/* ---- trust: the CA certificates that we believe ---- */
typedef struct gw__anchor {
    struct gw__anchor *next;
    size_t bytes;                       /* of this allocation: struct, name, key */
    br_x509_trust_anchor anchor;        /* its pointers lead behind the struct */
} gw__anchor;

typedef struct gw__trust_source {       /* from the config; texts and anchors stay the caller's */
    const char *ca_file, *ca_pem;
    const void *anchors;
    size_t anchor_count;
    uint32_t memory_only;               /* a fixed block: read no files */
} gw__trust_source;

typedef struct gw__trust {
    gw__mem *mem;
    gw__trust_source source;
    gw__anchor *anchors;                /* decoded by us; NULL while source.anchors are used */
    size_t anchor_count;
    uint32_t generation;                /* grows with each change; tickets are bound to it */
    uint64_t stamp[2];                  /* of the file when it was read */
    char where[128];                    /* for sentences: "config.ca_pem", a path */
    char warning[GW__FAULT_TEXT_MAX];   /* of the last refresh, for the log; "" if all is well */
} gw__trust;

typedef struct gw__trust_loader {       /* PEM or DER in, anchors out; one source, then gone */
    gw__mem *mem;
    br_x509_decoder_context x509;
    gw__anchor *anchors;
    uint32_t anchor_count;
    uint32_t refused;                   /* certificates that are broken, or that we cannot use */
    uint32_t no_memory;
    uint32_t in_certificate, is_broken; /* is_broken: what is no base64 stands in it */
    uint32_t line_len;                  /* of the line in hand; its first characters are kept */
    char line[40];
    uint32_t group, group_digits;       /* base64: up to four digits make three bytes */
    uint32_t decoded_len;
    uint8_t decoded[96];
    size_t name_len;
    uint8_t name[GW__TRUST_NAME_MAX];
    uint8_t chunk[1024];
} gw__trust_loader;

#ifdef GW_BUNDLED_ROOTS
/* What Discord's hosts, and what stands before them, chain to. One string each: C99 promises
 * 4,095 bytes. */
static const char *const gw__trust_bundled[] = {
    /* GTS Root R1 */
    "-----BEGIN CERTIFICATE-----\n"
    "MIIFVzCCAz+gAwIBAgINAgPlk28xsBNJiGuiFzANBgkqhkiG9w0BAQwFADBHMQsw\n"
    "CQYDVQQGEwJVUzEiMCAGA1UEChMZR29vZ2xlIFRydXN0IFNlcnZpY2VzIExMQzEU\n"
    "MBIGA1UEAxMLR1RTIFJvb3QgUjEwHhcNMTYwNjIyMDAwMDAwWhcNMzYwNjIyMDAw\n"
    "MDAwWjBHMQswCQYDVQQGEwJVUzEiMCAGA1UEChMZR29vZ2xlIFRydXN0IFNlcnZp\n"
    "Y2VzIExMQzEUMBIGA1UEAxMLR1RTIFJvb3QgUjEwggIiMA0GCSqGSIb3DQEBAQUA\n"
    "A4ICDwAwggIKAoICAQC2EQKLHuOhd5s73L+UPreVp0A8of2C+X0yBoJx9vaMf/vo\n"
    "27xqLpeXo4xL+Sv2sfnOhB2x+cWX3u+58qPpvBKJXqeqUqv4IyfLpLGcY9vXmX7w\n"
    "Cl7raKb0xlpHDU0QM+NOsROjyBhsS+z8CZDfnWQpJSMHobTSPS5g4M/SCYe7zUjw\n"
    "TcLCeoiKu7rPWRnWr4+wB7CeMfGCwcDfLqZtbBkOtdh+JhpFAz2weaSUKK0Pfybl\n"
    "qAj+lug8aJRT7oM6iCsVlgmy4HqMLnXWnOunVmSPlk9orj2XwoSPwLxAwAtcvfaH\n"
    "szVsrBhQf4TgTM2S0yDpM7xSma8ytSmzJSq0SPly4cpk9+aCEI3oncKKiPo4Zor8\n"
    "Y/kB+Xj9e1x3+naH+uzfsQ55lVe0vSbv1gHR6xYKu44LtcXFilWr06zqkUspzBmk\n"
    "MiVOKvFlRNACzqrOSbTqn3yDsEB750Orp2yjj32JgfpMpf/VjsPOS+C12LOORc92\n"
    "wO1AK/1TD7Cn1TsNsYqiA94xrcx36m97PtbfkSIS5r762DL8EGMUUXLeXdYWk70p\n"
    "aDPvOmbsB4om3xPXV2V4J95eSRQAogB/mqghtqmxlbCluQ0WEdrHbEg8QOB+DVrN\n"
    "VjzRlwW5y0vtOUucxD/SVRNuJLDWcfr0wbrM7Rv1/oFB2ACYPTrIrnqYNxgFlQID\n"
    "AQABo0IwQDAOBgNVHQ8BAf8EBAMCAYYwDwYDVR0TAQH/BAUwAwEB/zAdBgNVHQ4E\n"
    "FgQU5K8rJnEaK0gnhS9SZizv8IkTcT4wDQYJKoZIhvcNAQEMBQADggIBAJ+qQibb\n"
    "C5u+/x6Wki4+omVKapi6Ist9wTrYggoGxval3sBOh2Z5ofmmWJyq+bXmYOfg6LEe\n"
    "QkEzCzc9zolwFcq1JKjPa7XSQCGYzyI0zzvFIoTgxQ6KfF2I5DUkzps+GlQebtuy\n"
    "h6f88/qBVRRiClmpIgUxPoLW7ttXNLwzldMXG+gnoot7TiYaelpkttGsN/H9oPM4\n"
    "7HLwEXWdyzRSjeZ2axfG34arJ45JK3VmgRAhpuo+9K4l/3wV3s6MJT/KYnAK9y8J\n"
    "ZgfIPxz88NtFMN9iiMG1D53Dn0reWVlHxYciNuaCp+0KueIHoI17eko8cdLiA6Ef\n"
    "MgfdG+RCzgwARWGAtQsgWSl4vflVy2PFPEz0tv/bal8xa5meLMFrUKTX5hgUvYU/\n"
    "Z6tGn6D/Qqc6f1zLXbBwHSs09dR2CQzreExZBfMzQsNhFRAbd03OIozUhfJFfbdT\n"
    "6u9AWpQKXCBfTkBdYiJ23//OYb2MI3jSNwLgjt7RETeJ9r/tSQdirpLsQBqvFAnZ\n"
    "0E6yove+7u7Y/9waLd64NnHi/Hm3lCXRSHNboTXns5lndcEZOitHTtNCjv0xyBZm\n"
    "2tIMPNuzjsmhDYAPexZ3FL//2wmUspO8IFgV6dtxQ/PeEMMA3KgqlbbC1j+Qa3bb\n"
    "bP6MvPJwNQzcmRk13NfIRmPVNnGuV/u3gm3c\n"
    "-----END CERTIFICATE-----\n",
    /* GTS Root R4 */
    "-----BEGIN CERTIFICATE-----\n"
    "MIICCTCCAY6gAwIBAgINAgPlwGjvYxqccpBQUjAKBggqhkjOPQQDAzBHMQswCQYD\n"
    "VQQGEwJVUzEiMCAGA1UEChMZR29vZ2xlIFRydXN0IFNlcnZpY2VzIExMQzEUMBIG\n"
    "A1UEAxMLR1RTIFJvb3QgUjQwHhcNMTYwNjIyMDAwMDAwWhcNMzYwNjIyMDAwMDAw\n"
    "WjBHMQswCQYDVQQGEwJVUzEiMCAGA1UEChMZR29vZ2xlIFRydXN0IFNlcnZpY2Vz\n"
    "IExMQzEUMBIGA1UEAxMLR1RTIFJvb3QgUjQwdjAQBgcqhkjOPQIBBgUrgQQAIgNi\n"
    "AATzdHOnaItgrkO4NcWBMHtLSZ37wWHO5t5GvWvVYRg1rkDdc/eJkTBa6zzuhXyi\n"
    "QHY7qca4R9gq55KRanPpsXI5nymfopjTX15YhmUPoYRlBtHci8nHc8iMai/lxKvR\n"
    "HYqjQjBAMA4GA1UdDwEB/wQEAwIBhjAPBgNVHRMBAf8EBTADAQH/MB0GA1UdDgQW\n"
    "BBSATNbrdP9JNqPV2Py1PsVq8JQdjDAKBggqhkjOPQQDAwNpADBmAjEA6ED/g94D\n"
    "9J+uHXqnLrmvT/aDHQ4thQEd0dlq7A/Cr8deVl5c1RxYIigL9zC2L7F8AjEA8GE8\n"
    "p/SgguMh1YQdc4acLa/KNJvxn7kjNuK8YAOdgLOaVsjh4rsUecrNIdSUtUlD\n"
    "-----END CERTIFICATE-----\n",
    /* GlobalSign Root CA */
    "-----BEGIN CERTIFICATE-----\n"
    "MIIDdTCCAl2gAwIBAgILBAAAAAABFUtaw5QwDQYJKoZIhvcNAQEFBQAwVzELMAkG\n"
    "A1UEBhMCQkUxGTAXBgNVBAoTEEdsb2JhbFNpZ24gbnYtc2ExEDAOBgNVBAsTB1Jv\n"
    "b3QgQ0ExGzAZBgNVBAMTEkdsb2JhbFNpZ24gUm9vdCBDQTAeFw05ODA5MDExMjAw\n"
    "MDBaFw0yODAxMjgxMjAwMDBaMFcxCzAJBgNVBAYTAkJFMRkwFwYDVQQKExBHbG9i\n"
    "YWxTaWduIG52LXNhMRAwDgYDVQQLEwdSb290IENBMRswGQYDVQQDExJHbG9iYWxT\n"
    "aWduIFJvb3QgQ0EwggEiMA0GCSqGSIb3DQEBAQUAA4IBDwAwggEKAoIBAQDaDuaZ\n"
    "jc6j40+Kfvvxi4Mla+pIH/EqsLmVEQS98GPR4mdmzxzdzxtIK+6NiY6arymAZavp\n"
    "xy0Sy6scTHAHoT0KMM0VjU/43dSMUBUc71DuxC73/OlS8pF94G3VNTCOXkNz8kHp\n"
    "1Wrjsok6Vjk4bwY8iGlbKk3Fp1S4bInMm/k8yuX9ifUSPJJ4ltbcdG6TRGHRjcdG\n"
    "snUOhugZitVtbNV4FpWi6cgKOOvyJBNPc1STE4U6G7weNLWLBYy5d4ux2x8gkasJ\n"
    "U26Qzns3dLlwR5EiUWMWea6xrkEmCMgZK9FGqkjWZCrXgzT/LCrBbBlDSgeF59N8\n"
    "9iFo7+ryUp9/k5DPAgMBAAGjQjBAMA4GA1UdDwEB/wQEAwIBBjAPBgNVHRMBAf8E\n"
    "BTADAQH/MB0GA1UdDgQWBBRge2YaRQ2XyolQL30EzTSo//z9SzANBgkqhkiG9w0B\n"
    "AQUFAAOCAQEA1nPnfE920I2/7LqivjTFKDK1fPxsnCwrvQmeU79rXqoRSLblCKOz\n"
    "yj1hTdNGCbM+w6DjY1Ub8rrvrTnhQ7k4o+YviiY776BQVvnGCv04zcQLcFGUl5gE\n"
    "38NflNUVyRRBnMRddWQVDf9VMOyGj/8N7yy5Y0b2qvzfvGn9LhJIZJrglfCm7ymP\n"
    "AbEVtQwdpf5pLGkkeB6zpxxxYu7KyJesF12KwvhHhm4qxFYxldBniYUr+WymXUad\n"
    "DKqC5JlR3XC321Y9YeRq4VzW9v493kHMB65jUr9TU/Qr6cf9tveCX4XSQRjbgbME\n"
    "HMUfpIBvFSDJ3gyICh3WZlXi/EjJKSZp4A==\n"
    "-----END CERTIFICATE-----\n",
    /* ISRG Root X1 */
    "-----BEGIN CERTIFICATE-----\n"
    "MIIFazCCA1OgAwIBAgIRAIIQz7DSQONZRGPgu2OCiwAwDQYJKoZIhvcNAQELBQAw\n"
    "TzELMAkGA1UEBhMCVVMxKTAnBgNVBAoTIEludGVybmV0IFNlY3VyaXR5IFJlc2Vh\n"
    "cmNoIEdyb3VwMRUwEwYDVQQDEwxJU1JHIFJvb3QgWDEwHhcNMTUwNjA0MTEwNDM4\n"
    "WhcNMzUwNjA0MTEwNDM4WjBPMQswCQYDVQQGEwJVUzEpMCcGA1UEChMgSW50ZXJu\n"
    "ZXQgU2VjdXJpdHkgUmVzZWFyY2ggR3JvdXAxFTATBgNVBAMTDElTUkcgUm9vdCBY\n"
    "MTCCAiIwDQYJKoZIhvcNAQEBBQADggIPADCCAgoCggIBAK3oJHP0FDfzm54rVygc\n"
    "h77ct984kIxuPOZXoHj3dcKi/vVqbvYATyjb3miGbESTtrFj/RQSa78f0uoxmyF+\n"
    "0TM8ukj13Xnfs7j/EvEhmkvBioZxaUpmZmyPfjxwv60pIgbz5MDmgK7iS4+3mX6U\n"
    "A5/TR5d8mUgjU+g4rk8Kb4Mu0UlXjIB0ttov0DiNewNwIRt18jA8+o+u3dpjq+sW\n"
    "T8KOEUt+zwvo/7V3LvSye0rgTBIlDHCNAymg4VMk7BPZ7hm/ELNKjD+Jo2FR3qyH\n"
    "B5T0Y3HsLuJvW5iB4YlcNHlsdu87kGJ55tukmi8mxdAQ4Q7e2RCOFvu396j3x+UC\n"
    "B5iPNgiV5+I3lg02dZ77DnKxHZu8A/lJBdiB3QW0KtZB6awBdpUKD9jf1b0SHzUv\n"
    "KBds0pjBqAlkd25HN7rOrFleaJ1/ctaJxQZBKT5ZPt0m9STJEadao0xAH0ahmbWn\n"
    "OlFuhjuefXKnEgV4We0+UXgVCwOPjdAvBbI+e0ocS3MFEvzG6uBQE3xDk3SzynTn\n"
    "jh8BCNAw1FtxNrQHusEwMFxIt4I7mKZ9YIqioymCzLq9gwQbooMDQaHWBfEbwrbw\n"
    "qHyGO0aoSCqI3Haadr8faqU9GY/rOPNk3sgrDQoo//fb4hVC1CLQJ13hef4Y53CI\n"
    "rU7m2Ys6xt0nUW7/vGT1M0NPAgMBAAGjQjBAMA4GA1UdDwEB/wQEAwIBBjAPBgNV\n"
    "HRMBAf8EBTADAQH/MB0GA1UdDgQWBBR5tFnme7bl5AFzgAiIyBpY9umbbjANBgkq\n"
    "hkiG9w0BAQsFAAOCAgEAVR9YqbyyqFDQDLHYGmkgJykIrGF1XIpu+ILlaS/V9lZL\n"
    "ubhzEFnTIZd+50xx+7LSYK05qAvqFyFWhfFQDlnrzuBZ6brJFe+GnY+EgPbk6ZGQ\n"
    "3BebYhtF8GaV0nxvwuo77x/Py9auJ/GpsMiu/X1+mvoiBOv/2X/qkSsisRcOj/KK\n"
    "NFtY2PwByVS5uCbMiogziUwthDyC3+6WVwW6LLv3xLfHTjuCvjHIInNzktHCgKQ5\n"
    "ORAzI4JMPJ+GslWYHb4phowim57iaztXOoJwTdwJx4nLCgdNbOhdjsnvzqvHu7Ur\n"
    "TkXWStAmzOVyyghqpZXjFaH3pO3JLF+l+/+sKAIuvtd7u+Nxe5AW0wdeRlN8NwdC\n"
    "jNPElpzVmbUq4JUagEiuTDkHzsxHpFKVK7q4+63SM1N95R1NbdWhscdCb+ZAJzVc\n"
    "oyi3B43njTOQ5yOf+1CceWxG1bQVs5ZufpsMljq4Ui0/1lvh+wjChP4kqKOJ2qxq\n"
    "4RgqsahDYVvTH9w7jXbyLeiNdd8XM2w9U/t7y0Ff/9yi0GE44Za4rF2LN9d11TPA\n"
    "mRGunUHBcnWEvgJBQl9nJEiU0Zsnvgc/ubhPgXRR4Xq37Z0j4r7g1SgEEzwxA57d\n"
    "emyPxgcYxn/eR44/KJ4EBs+lVDR3veyJm+kXQ99b21/+jh5Xos1AnX5iItreGCc=\n"
    "-----END CERTIFICATE-----\n",
    /* ISRG Root X2 */
    "-----BEGIN CERTIFICATE-----\n"
    "MIICGzCCAaGgAwIBAgIQQdKd0XLq7qeAwSxs6S+HUjAKBggqhkjOPQQDAzBPMQsw\n"
    "CQYDVQQGEwJVUzEpMCcGA1UEChMgSW50ZXJuZXQgU2VjdXJpdHkgUmVzZWFyY2gg\n"
    "R3JvdXAxFTATBgNVBAMTDElTUkcgUm9vdCBYMjAeFw0yMDA5MDQwMDAwMDBaFw00\n"
    "MDA5MTcxNjAwMDBaME8xCzAJBgNVBAYTAlVTMSkwJwYDVQQKEyBJbnRlcm5ldCBT\n"
    "ZWN1cml0eSBSZXNlYXJjaCBHcm91cDEVMBMGA1UEAxMMSVNSRyBSb290IFgyMHYw\n"
    "EAYHKoZIzj0CAQYFK4EEACIDYgAEzZvVn4CDCuwJSvMWSj5cz3es3mcFDR0HttwW\n"
    "+1qLFNvicWDEukWVEYmO6gbf9yoWHKS5xcUy4APgHoIYOIvXRdgKam7mAHf7AlF9\n"
    "ItgKbppbd9/w+kHsOdx1ymgHDB/qo0IwQDAOBgNVHQ8BAf8EBAMCAQYwDwYDVR0T\n"
    "AQH/BAUwAwEB/zAdBgNVHQ4EFgQUfEKWrt5LSDv6kviejM9ti6lyN5UwCgYIKoZI\n"
    "zj0EAwMDaAAwZQIwe3lORlCEwkSHRhtFcP9Ymd70/aTSVaYgLXTWNLxBo1BfASdW\n"
    "tL4ndQavEi51mI38AjEAi/V3bNTIZargCyzuFJ0nN6T5U6VR5CmD1/iQMVtCnwr1\n"
    "/q4AaOeMSQ+2b1tbFfLn\n"
    "-----END CERTIFICATE-----\n"
};
#endif

static void gw__trust_init(gw__trust *trust, gw__mem *mem, const gw__trust_source *source)
{
    memset(trust, 0, sizeof *trust);
    trust->mem = mem;
    trust->source = *source;
}

static void gw__anchors_free(gw__mem *mem, gw__anchor *anchor)
{
    while (anchor) {
        gw__anchor *next = anchor->next;
        gw__mem_free(mem, anchor, anchor->bytes);
        anchor = next;
    }
}

static void gw__trust_free(gw__trust *trust)
{
    gw__anchors_free(trust->mem, trust->anchors);
    trust->anchors = NULL;
    trust->anchor_count = 0;
}

static uint8_t *gw__anchor_put(uint8_t **at, const void *bytes, size_t len)
{
    uint8_t *put = *at;
    memcpy(put, bytes, len);
    *at += len;
    return put;
}

/* One allocation that holds all; NULL: no memory. */
static gw__anchor *gw__anchor_new(gw__mem *mem, const uint8_t *name, size_t name_len,
                                  const br_x509_pkey *key, int is_ca)
{
    int is_rsa = key->key_type == BR_KEYTYPE_RSA;
    size_t key_len = is_rsa ? key->key.rsa.nlen + key->key.rsa.elen : key->key.ec.qlen;
    size_t bytes = sizeof(gw__anchor) + name_len + key_len;
    gw__anchor *fresh = (gw__anchor *)gw__mem_new(mem, bytes);
    uint8_t *at;
    if (!fresh) return NULL;
    at = (uint8_t *)(fresh + 1);
    fresh->bytes = bytes;
    fresh->anchor.flags = is_ca ? BR_X509_TA_CA : 0u;
    fresh->anchor.pkey = *key;
    fresh->anchor.dn.data = gw__anchor_put(&at, name, name_len);
    fresh->anchor.dn.len = name_len;
    if (is_rsa) {
        fresh->anchor.pkey.key.rsa.n = gw__anchor_put(&at, key->key.rsa.n, key->key.rsa.nlen);
        fresh->anchor.pkey.key.rsa.e = gw__anchor_put(&at, key->key.rsa.e, key->key.rsa.elen);
    } else {
        fresh->anchor.pkey.key.ec.q = gw__anchor_put(&at, key->key.ec.q, key->key.ec.qlen);
    }
    return fresh;
}

static void gw__loader_on_name(void *context, const void *bytes, size_t len)
{
    gw__trust_loader *loader = (gw__trust_loader *)context;
    if (len <= sizeof loader->name - GW__MIN(loader->name_len, sizeof loader->name))
        memcpy(loader->name + loader->name_len, bytes, len);
    loader->name_len += len;            /* above the array's size: refused at the end */
}

static void gw__loader_begin_certificate(gw__trust_loader *loader)
{
    loader->refused += loader->in_certificate;      /* the one before has no end */
    loader->in_certificate = 1;
    loader->is_broken = 0;
    loader->name_len = 0;
    loader->group = loader->group_digits = loader->decoded_len = 0;
    br_x509_decoder_init(&loader->x509, gw__loader_on_name, loader);
}

static void gw__loader_end_certificate(gw__trust_loader *loader)
{
    const br_x509_pkey *key = br_x509_decoder_get_pkey(&loader->x509);
    gw__anchor *fresh;
    loader->in_certificate = 0;
    if (!key || loader->is_broken || loader->name_len > sizeof loader->name ||
        loader->anchor_count == GW__TRUST_ANCHORS_MAX) {
        loader->refused++;
        return;
    }
    fresh = gw__anchor_new(loader->mem, loader->name, loader->name_len, key,
                           br_x509_decoder_isCA(&loader->x509));
    if (!fresh) {
        loader->no_memory = 1;
        return;
    }
    fresh->next = loader->anchors;
    loader->anchors = fresh;
    loader->anchor_count++;
}

/* A decoder that has failed may not be fed again: BearSSL would go on behind its error, with a
 * stack that does not fit, and crash. (Its x509_minimal looks at that by itself, its decoder does
 * not.) */
static void gw__loader_decode(gw__trust_loader *loader, const void *bytes, size_t len)
{
    if (loader->x509.err == 0) br_x509_decoder_push(&loader->x509, bytes, len);
}

static void gw__loader_flush(gw__trust_loader *loader)
{
    gw__loader_decode(loader, loader->decoded, loader->decoded_len);
    loader->decoded_len = 0;
}

/* One character between BEGIN and END (RFC 7468). BearSSL's own PEM decoder takes four times as
 * long as all the rest (40 ms for a system's bundle), and that is a pause in somebody's game. */
static void gw__loader_on_digit(gw__trust_loader *loader, char c)
{
    uint32_t digit;
    if (c >= 'A' && c <= 'Z') digit = (uint32_t)(c - 'A');
    else if (c >= 'a' && c <= 'z') digit = (uint32_t)(c - 'a') + 26;
    else if (c >= '0' && c <= '9') digit = (uint32_t)(c - '0') + 52;
    else if (c == '+') digit = 62;
    else if (c == '/') digit = 63;
    else {
        if (c != '=' && c != ' ' && c != '\t') loader->is_broken = 1;
        return;
    }
    loader->group = loader->group << 6 | digit;
    if (++loader->group_digits < 4) return;
    loader->decoded[loader->decoded_len++] = (uint8_t)(loader->group >> 16 & 255u);
    loader->decoded[loader->decoded_len++] = (uint8_t)(loader->group >> 8 & 255u);
    loader->decoded[loader->decoded_len++] = (uint8_t)(loader->group & 255u);
    loader->group = loader->group_digits = 0;
    if (loader->decoded_len == sizeof loader->decoded) gw__loader_flush(loader);
}

/* Two digits are left over for one byte, three for two. */
static void gw__loader_on_pem_end(gw__trust_loader *loader)
{
    uint32_t bits = loader->group << (6 * (4 - loader->group_digits));
    uint32_t i;
    for (i = 0; i + 1 < loader->group_digits; i++)
        loader->decoded[loader->decoded_len++] = (uint8_t)(bits >> (16 - 8 * i) & 255u);
    gw__loader_flush(loader);
    gw__loader_end_certificate(loader);
}

static int gw__loader_line_is(const gw__trust_loader *loader, const char *text)
{
    size_t len = strlen(text);
    return loader->line_len >= len && memcmp(loader->line, text, len) == 0;
}

/* What stands between certificates, keys and comments too, is skipped. */
static void gw__loader_on_line(gw__trust_loader *loader)
{
    if (loader->in_certificate && gw__loader_line_is(loader, "-----END "))
        gw__loader_on_pem_end(loader);
    else if (gw__loader_line_is(loader, "-----BEGIN CERTIFICATE-----") ||
             gw__loader_line_is(loader, "-----BEGIN X509 CERTIFICATE-----"))
        gw__loader_begin_certificate(loader);
    loader->line_len = 0;
}

/* PEM, by pieces of any size. */
static void gw__loader_push(gw__trust_loader *loader, const void *text, size_t len)
{
    const char *at = (const char *)text;
    for (; len > 0 && !loader->no_memory; at++, len--) {
        if (*at == '\n' || *at == '\r') {
            gw__loader_on_line(loader);
            continue;
        }
        if (loader->line_len < sizeof loader->line) loader->line[loader->line_len++] = *at;
        if (loader->in_certificate && loader->line[0] != '-') gw__loader_on_digit(loader, *at);
    }
}

/* 0x30 is also the digit '0', but a certificate is never so short that its length fits 7 bits. */
static int gw__loader_is_der(const uint8_t *bytes, size_t len)
{
    return len > 1 && bytes[0] == 0x30 && bytes[1] >= 0x80;
}

static void gw__loader_push_file(gw__trust_loader *loader, const char *path)
{
    uint64_t offset = 0;
    size_t len = gw__sys_file_read(path, 0, loader->chunk, sizeof loader->chunk);
    int is_der = gw__loader_is_der(loader->chunk, len);
    if (is_der) gw__loader_begin_certificate(loader);
    while (len > 0 && offset < GW__TRUST_FILE_MAX) {
        if (is_der) gw__loader_decode(loader, loader->chunk, len);
        else gw__loader_push(loader, loader->chunk, len);
        offset += len;
        len = gw__sys_file_read(path, offset, loader->chunk, sizeof loader->chunk);
    }
    if (is_der) gw__loader_end_certificate(loader);
}

/* What was read replaces what we had, if there is anything in it. */
static int gw__trust_adopt(gw__trust *trust, gw__trust_loader *loader, const char *where,
                           gw__fault *fault)
{
    const char *kept = trust->anchors ? "; the CA certificates read before stay in use" : "";
    if (loader->no_memory) {
        gw__fault_set(fault, GW_REASON_MEMORY, 0, "TLS: no memory for the CA certificates of %s%s",
                      where, kept);
    } else if (loader->anchor_count == 0 && loader->refused) {
        gw__fault_set(fault, GW_REASON_CONFIG, 0, "TLS: none of the %lu certificates in %s can be "
                      "used: they are broken, or their keys are neither RSA nor P-256, P-384, "
                      "P-521%s", (unsigned long)loader->refused, where, kept);
    } else if (loader->anchor_count == 0) {
        gw__fault_set(fault, GW_REASON_CONFIG, 0, "TLS: no \"-----BEGIN CERTIFICATE-----\" in %s; "
                      "it must hold CA certificates as PEM%s", where, kept);
    } else {
        gw__anchors_free(trust->mem, trust->anchors);
        trust->anchors = loader->anchors;
        trust->anchor_count = loader->anchor_count;
        trust->generation++;
        gw__text_format(trust->where, sizeof trust->where, "%s", where);
        return 1;
    }
    gw__anchors_free(trust->mem, loader->anchors);
    return 0;
}

/* Reads `count` PEM texts, or the file named `where` if count is 0. */
static int gw__trust_load(gw__trust *trust, const char *const *texts, size_t count,
                          const char *where, gw__fault *fault)
{
    gw__trust_loader *loader = (gw__trust_loader *)gw__mem_new(trust->mem, sizeof *loader);
    size_t i;
    int loaded;
    if (!loader) {
        gw__fault_set(fault, GW_REASON_MEMORY, 0, "TLS: no memory to read %s", where);
        return 0;
    }
    loader->mem = trust->mem;
    if (count == 0) gw__loader_push_file(loader, where);
    for (i = 0; i < count; i++) gw__loader_push(loader, texts[i], strlen(texts[i]));
    gw__loader_push(loader, "\n", 1);   /* the last line may lack its end */
    loaded = gw__trust_adopt(trust, loader, where, fault);
    gw__mem_free(trust->mem, loader, sizeof *loader);
    return loaded;
}

/* A file that went bad keeps the anchors that we have: the answer is 1, and the fault says so. */
static int gw__trust_load_file(gw__trust *trust, const char *path, gw__fault *fault)
{
    uint64_t stamp[2];
    if (!gw__sys_file_stamp(path, stamp)) {
        gw__fault_set(fault, GW_REASON_CONFIG, 0,
                      "TLS: the CA file %s is not there, or may not be read%s", path,
                      trust->anchors ? "; the CA certificates read before stay in use" : "");
        return trust->anchors != NULL;
    }
    if (trust->anchors && memcmp(stamp, trust->stamp, sizeof stamp) == 0) return 1;
    /* What failed for want of memory is tried again at the next connect. */
    if (gw__trust_load(trust, NULL, 0, path, fault) || fault->reason != GW_REASON_MEMORY)
        memcpy(trust->stamp, stamp, sizeof stamp);
    return trust->anchors != NULL;
}

/* The first of the system's bundles that is there and can be used. */
static int gw__trust_load_bundle(gw__trust *trust, gw__fault *fault)
{
    const char *path;
    uint64_t stamp[2];
    uint32_t number;
    for (number = 1; (path = gw__sys_ca_path(number)) != NULL; number++)
        if (gw__sys_file_stamp(path, stamp) && gw__trust_load_file(trust, path, fault)) return 1;
    return trust->anchors != NULL;
}

/* SSL_CERT_FILE replaces the system's bundle and is not added to it: who names a file means it. */
static int gw__trust_load_system(gw__trust *trust, gw__fault *fault)
{
    const char *named = trust->source.memory_only ? NULL : gw__sys_ca_path(0);
    if (named && named[0]) return gw__trust_load_file(trust, named, fault);
    if (!trust->source.memory_only && gw__trust_load_bundle(trust, fault)) return 1;
#ifdef GW_BUNDLED_ROOTS
    if (trust->anchors) return 1;
    return gw__trust_load(trust, gw__trust_bundled, GW__COUNT(gw__trust_bundled),
                          "GW_BUNDLED_ROOTS", fault);
#else
    gw__fault_set(fault, GW_REASON_CONFIG, 0, "TLS: no CA certificates: %s; give config.ca_file, "
                  "config.ca_pem or config.trust_anchors, or compile with GW_BUNDLED_ROOTS",
                  trust->source.memory_only ? "with config.memory no file is read"
                  : "neither SSL_CERT_FILE nor a bundle of this system is there");
    return 0;
#endif
}

static int gw__trust_load_pem(gw__trust *trust, gw__fault *fault)
{
    if (trust->anchors) return 1;
    return gw__trust_load(trust, &trust->source.ca_pem, 1, "config.ca_pem", fault);
}

static int gw__trust_borrow(gw__trust *trust)
{
    gw__text_format(trust->where, sizeof trust->where, "config.trust_anchors");
    trust->anchor_count = trust->source.anchor_count;
    trust->generation = 1;
    return 1;
}

static int gw__trust_choose(gw__trust *trust, gw__fault *fault)
{
    const gw__trust_source *source = &trust->source;
    if (source->anchors && source->anchor_count) return gw__trust_borrow(trust);
    if (source->ca_pem) return gw__trust_load_pem(trust, fault);
    if (source->ca_file && !source->memory_only)
        return gw__trust_load_file(trust, source->ca_file, fault);
    return gw__trust_load_system(trust, fault);
}

/* Before each connect: reads what is new or has changed. 0: there is no usable anchor, the fault
 * says why. 1 with a warning in `trust`: what changed cannot be used, and the old anchors stay. */
static int gw__trust_refresh(gw__trust *trust, gw__fault *fault)
{
    gw__fault found;
    int usable;
    memset(&found, 0, sizeof found);
    usable = gw__trust_choose(trust, &found);
    memcpy(trust->warning, found.text, sizeof trust->warning);
    if (!usable) gw__fault_set(fault, found.reason, found.code, "%s", found.text);
    return usable;
}

static int gw__trust_is_named(const br_x509_trust_anchor *anchor, const uint8_t *name,
                              size_t name_len)
{
    return anchor->dn.len == name_len && memcmp(anchor->dn.data, name, name_len) == 0;
}

/* Appends the anchors of that name to `out`, which has GW__TLS_PICKED_MAX places; the number
 * there are then. */
static size_t gw__trust_pick(const gw__trust *trust, const uint8_t *name, size_t name_len,
                             br_x509_trust_anchor *out, size_t count)
{
    const br_x509_trust_anchor *lent = (const br_x509_trust_anchor *)trust->source.anchors;
    const gw__anchor *own;
    size_t i;
    for (i = 0; lent && i < trust->source.anchor_count && count < GW__TLS_PICKED_MAX; i++)
        if (gw__trust_is_named(&lent[i], name, name_len)) out[count++] = lent[i];
    for (own = trust->anchors; own && count < GW__TLS_PICKED_MAX; own = own->next)
        if (gw__trust_is_named(&own->anchor, name, name_len)) out[count++] = own->anchor;
    return count;
}

/* ---- dates: seconds since 1970, signed, since certificates go from 1950 to 9999 ---- */

/* Days since 1970-01-01 of a date in the Gregorian calendar. The year begins in March, so a leap
 * day is its last. */
static int64_t gw__date_to_days(int64_t year, int64_t month, int64_t day)
{
    int64_t y = month <= 2 ? year - 1 : year;
    int64_t era = y / 400, of_era = y - era * 400;
    int64_t of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    return era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
}

static void gw__date_text(int64_t unix_time, char out[32])
{
    int64_t days = unix_time / 86400 - (unix_time % 86400 < 0), seconds = unix_time - days * 86400;
    int64_t shifted = days + 719468, era = shifted / 146097, of_era = shifted - era * 146097;
    int64_t year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    int64_t of_year = of_era - (365 * year + year / 4 - year / 100);
    int64_t month = (5 * of_year + 2) / 153;
    int64_t day = of_year - (153 * month + 2) / 5 + 1;
    month += month < 10 ? 3 : -9;
    gw__text_format(out, 32, "%04d-%02d-%02d %02d:%02d UTC",
                    (int)(year + era * 400 + (month <= 2)), (int)month, (int)day,
                    (int)(seconds / 3600), (int)(seconds / 60 % 60));
}

/* ---- DER (X.690): slices of bytes, read one element at a time ---- */
typedef struct gw__der { const uint8_t *at; size_t left; } gw__der;

enum {
    GW__DER_BOOLEAN = 0x01, GW__DER_OCTETS = 0x04, GW__DER_OID = 0x06, GW__DER_UTC_TIME = 0x17,
    GW__DER_TIME = 0x18, GW__DER_SEQUENCE = 0x30, GW__DER_SET = 0x31,
    GW__DER_VERSION = 0xA0, GW__DER_EXTENSIONS = 0xA3,      /* [0] and [3] of TBSCertificate */
    GW__DER_SAN_DNS = 0x82, GW__DER_SAN_IP = 0x87           /* [2] and [7] of GeneralName */
};

/* Takes the next element off the front; 0: there is none, or it is no DER that a certificate
 * would hold. `content` may be `from` itself: that steps into the element. */
static int gw__der_next(gw__der *from, uint8_t *tag, gw__der *content)
{
    const uint8_t *begin = from->at;
    size_t header = 2, len, i, more;
    if (from->left < 2 || (from->at[0] & 0x1F) == 0x1F) return 0;
    *tag = from->at[0];
    len = from->at[1];
    if (len >= 0x80) {
        more = len & 0x7F;
        if (more == 0 || more > 3 || from->left < 2 + more) return 0;
        for (len = 0, i = 0; i < more; i++) len = len << 8 | from->at[2 + i];
        header += more;
    }
    if (len > from->left - header) return 0;
    from->at += header + len;
    from->left -= header + len;
    content->at = begin + header;
    content->left = len;
    return 1;
}

static int gw__der_expect(gw__der *from, uint8_t want, gw__der *content)
{
    uint8_t tag;
    return gw__der_next(from, &tag, content) && tag == want;
}

static int gw__der_is(const gw__der *content, const void *bytes, size_t len)
{
    return content->left == len && memcmp(content->at, bytes, len) == 0;
}

/* A name with its header, which is how BearSSL compares them. */
static int gw__der_name(gw__der *from, gw__der *name)
{
    const uint8_t *begin = from->at;
    if (!gw__der_expect(from, GW__DER_SEQUENCE, name)) return 0;
    name->left = (size_t)(from->at - begin);
    name->at = begin;
    return 1;
}

/* "YYMMDDHHMMSSZ" or "YYYYMMDDHHMMSSZ". RFC 5280 section 4.1.2.5: nothing else is allowed. */
static int gw__der_time(gw__der *from, int64_t *unix_time)
{
    gw__der text;
    uint8_t tag;
    int64_t part[7];        /* century, year, month, day, hours, minutes, seconds */
    size_t i, n, digits;
    memset(part, 0, sizeof part);
    if (!gw__der_next(from, &tag, &text)) return 0;
    if (tag != GW__DER_UTC_TIME && tag != GW__DER_TIME) return 0;
    n = tag == GW__DER_TIME ? 0u : 1u;
    digits = (7 - n) * 2;
    if (text.left != digits + 1 || text.at[digits] != 'Z') return 0;
    for (i = 0; i < digits; i++) {
        if (text.at[i] < '0' || text.at[i] > '9') return 0;
        part[n + i / 2] = part[n + i / 2] * 10 + (text.at[i] - '0');
    }
    if (tag == GW__DER_UTC_TIME) part[0] = part[1] < 50 ? 20 : 19;
    if (part[2] < 1 || part[2] > 12 || part[3] < 1 || part[3] > 31) return 0;
    if (part[4] > 23 || part[5] > 59 || part[6] > 60) return 0;
    *unix_time = gw__date_to_days(part[0] * 100 + part[1], part[2], part[3]) * 86400 +
                 part[4] * 3600 + part[5] * 60 + part[6];
    return 1;
}

/* ---- one certificate (RFC 5280 section 4.1): what BearSSL does not tell ---- */
typedef struct gw__certificate {        /* slices of the certificate's bytes */
    gw__der issuer, subject;            /* distinguished names, with their headers */
    gw__der names, usages;              /* of subjectAltName, extendedKeyUsage; at NULL: none */
    gw__der algorithm;                  /* OID of the signature */
    int64_t not_before, not_after;
} gw__certificate;

static const uint8_t gw__oid_names[]       = { 0x55, 0x1D, 0x11 };         /* 2.5.29.17 */
static const uint8_t gw__oid_usages[]      = { 0x55, 0x1D, 0x25 };         /* 2.5.29.37 */
static const uint8_t gw__oid_any_usage[]   = { 0x55, 0x1D, 0x25, 0 };
static const uint8_t gw__oid_server_auth[] = { 0x2B, 6, 1, 5, 5, 7, 3, 1 };
static const uint8_t gw__oid_common_name[] = { 0x55, 4, 3 };
static const uint8_t gw__oid_rsa_sha1[]    = { 0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 5 };
static const uint8_t gw__oid_ecdsa_sha1[]  = { 0x2A, 0x86, 0x48, 0xCE, 0x3D, 4, 1 };

static int gw__certificate_read_extension(gw__certificate *certificate, gw__der extension)
{
    gw__der oid, content, *keep = NULL;
    uint8_t tag;
    if (!gw__der_expect(&extension, GW__DER_OID, &oid)) return 0;
    if (!gw__der_next(&extension, &tag, &content)) return 0;
    /* The boolean says "critical"; BearSSL looks at that. */
    if (tag == GW__DER_BOOLEAN && !gw__der_next(&extension, &tag, &content)) return 0;
    if (tag != GW__DER_OCTETS) return 0;
    if (gw__der_is(&oid, gw__oid_names, sizeof gw__oid_names)) keep = &certificate->names;
    if (gw__der_is(&oid, gw__oid_usages, sizeof gw__oid_usages)) keep = &certificate->usages;
    return !keep || gw__der_expect(&content, GW__DER_SEQUENCE, keep);
}

static int gw__certificate_read_extensions(gw__certificate *certificate, gw__der list)
{
    gw__der extension;
    if (!gw__der_expect(&list, GW__DER_SEQUENCE, &list)) return 0;
    while (list.left) {
        if (!gw__der_expect(&list, GW__DER_SEQUENCE, &extension)) return 0;
        if (!gw__certificate_read_extension(certificate, extension)) return 0;
    }
    return 1;
}

static int gw__certificate_read_dates(gw__certificate *certificate, gw__der dates)
{
    return gw__der_time(&dates, &certificate->not_before) &&
           gw__der_time(&dates, &certificate->not_after);
}

/* TBSCertificate, field by field in its order. */
static int gw__certificate_read_body(gw__certificate *certificate, gw__der body)
{
    gw__der part;
    uint8_t tag;
    if (!gw__der_next(&body, &tag, &part)) return 0;            /* version, or the serial at once */
    if (tag == GW__DER_VERSION && !gw__der_next(&body, &tag, &part)) return 0;
    if (!gw__der_expect(&body, GW__DER_SEQUENCE, &part)) return 0;      /* algorithm */
    if (!gw__der_name(&body, &certificate->issuer)) return 0;
    if (!gw__der_expect(&body, GW__DER_SEQUENCE, &part)) return 0;
    if (!gw__certificate_read_dates(certificate, part)) return 0;
    if (!gw__der_name(&body, &certificate->subject)) return 0;
    if (!gw__der_expect(&body, GW__DER_SEQUENCE, &part)) return 0;      /* key */
    while (body.left) {
        if (!gw__der_next(&body, &tag, &part)) return 0;
        if (tag != GW__DER_EXTENSIONS) continue;
        if (!gw__certificate_read_extensions(certificate, part)) return 0;
    }
    return 1;
}

/* 1: read; 0: malformed. */
static int gw__certificate_read(gw__certificate *certificate, const uint8_t *bytes, size_t len)
{
    gw__der all, body, algorithm;
    memset(certificate, 0, sizeof *certificate);
    all.at = bytes;
    all.left = len;
    return gw__der_expect(&all, GW__DER_SEQUENCE, &all) &&
           gw__der_expect(&all, GW__DER_SEQUENCE, &body) &&
           gw__der_expect(&all, GW__DER_SEQUENCE, &algorithm) &&
           gw__der_expect(&algorithm, GW__DER_OID, &certificate->algorithm) &&
           gw__certificate_read_body(certificate, body);
}

static int gw__certificate_is_self_signed(const gw__certificate *certificate)
{
    return gw__der_is(&certificate->subject, certificate->issuer.at, certificate->issuer.left);
}

static int gw__certificate_is_sha1(const gw__certificate *certificate)
{
    return gw__der_is(&certificate->algorithm, gw__oid_rsa_sha1, sizeof gw__oid_rsa_sha1) ||
           gw__der_is(&certificate->algorithm, gw__oid_ecdsa_sha1, sizeof gw__oid_ecdsa_sha1);
}

/* The common name, else whatever the name ends with, such as an organisation. */
static void gw__certificate_name(gw__der name, char *out, size_t cap)
{
    gw__der set, pair, oid, value;
    uint8_t tag;
    gw__text_format(out, cap, "(no name)");
    if (!gw__der_expect(&name, GW__DER_SEQUENCE, &name)) return;
    while (gw__der_expect(&name, GW__DER_SET, &set)) {
        if (!gw__der_expect(&set, GW__DER_SEQUENCE, &pair)) return;
        if (!gw__der_expect(&pair, GW__DER_OID, &oid) || !gw__der_next(&pair, &tag, &value)) return;
        gw__text_printable(out, cap, value.at, value.left);
        if (gw__der_is(&oid, gw__oid_common_name, sizeof gw__oid_common_name)) return;
    }
}

static void gw__certificate_address_text(const gw__der *value, char *out, size_t cap)
{
    gw__address address;
    memset(&address, 0, sizeof address);
    address.is_v6 = value->left == 16;
    out[0] = 0;
    if (value->left != 4 && value->left != 16) return;
    memcpy(address.bytes, value->at, value->left);
    gw__sys_address_text(&address, out, cap);
}

/* "a.example, *.b.example, 10.0.0.1", and how many more: for the sentence about a wrong host. */
static void gw__certificate_names_text(const gw__certificate *certificate, char *out, size_t cap)
{
    gw__der rest = certificate->names, value;
    size_t len = 0, more = 0;
    char one[96];
    uint8_t tag;
    if (!rest.at) gw__certificate_name(certificate->subject, out, cap);
    else gw__text_format(out, cap, "no host");
    while (gw__der_next(&rest, &tag, &value)) {
        if (tag == GW__DER_SAN_DNS) gw__text_printable(one, sizeof one, value.at, value.left);
        else if (tag == GW__DER_SAN_IP) gw__certificate_address_text(&value, one, sizeof one);
        else continue;
        if (more || len + strlen(one) + 20 > cap) more++;
        else len += gw__text_format(out + len, cap - len, "%s%s", len ? ", " : "", one);
    }
    if (more) gw__text_format(out + len, cap - len, " and %lu more", (unsigned long)more);
}

/* RFC 5280 section 4.2.1.12. An intermediate that names its usages passes them on, so it is
 * asked too. */
static int gw__certificate_may_serve(const gw__certificate *certificate)
{
    gw__der rest = certificate->usages, oid;
    if (!rest.at) return 1;
    while (gw__der_expect(&rest, GW__DER_OID, &oid)) {
        if (gw__der_is(&oid, gw__oid_server_auth, sizeof gw__oid_server_auth)) return 1;
        if (gw__der_is(&oid, gw__oid_any_usage, sizeof gw__oid_any_usage)) return 1;
    }
    return 0;
}

static int gw__certificate_is_for_address(const gw__certificate *certificate, const uint8_t *bytes,
                                          size_t len)
{
    gw__der rest = certificate->names, value;
    uint8_t tag;
    while (gw__der_next(&rest, &tag, &value))
        if (tag == GW__DER_SAN_IP && gw__der_is(&value, bytes, len)) return 1;
    return 0;
}

/* ---- the verifier: our br_x509_class; lives while the handshake lasts ---- */
/* What a chain needs while it is looked at; most of a connection's life there is none. */
typedef struct gw__verifier_work {
    br_x509_minimal_context minimal;
    br_x509_trust_anchor picked[GW__TLS_PICKED_MAX];
    uint8_t bytes[GW__TLS_CERT_MAX];    /* the certificate in hand */
} gw__verifier_work;

typedef struct gw__verifier {
    const br_x509_class *vtable;        /* first: a pointer to it is a pointer to us */
    gw__mem *mem;
    gw__verifier_work *work;            /* NULL: no chain has come, or there is no memory for it */
    const gw__trust *trust;
    const char *host;                   /* borrowed from the gw__tls, like the fault */
    gw__fault *fault;
    int64_t now;                        /* seconds since 1970 */
    uint32_t clock_is_floor;            /* `now` is only known to be no later than the true time */
    gw__address address;                /* where the host is an IP address */
    uint32_t address_len;               /* 4, 16, or 0: the host is a name */
    uint32_t certificate_count;         /* handed on so far */
    uint32_t last_is_self_signed, last_is_sha1;
    uint32_t last_is_claimed;           /* its issuer's name is that of an anchor */
    int64_t valid_until;                /* when the first of them expires */
    char subject[80], issuer[80];       /* of the last one */
    char names[160];                    /* what the first one is for */
    uint32_t length, filled;            /* of the certificate in hand */
    uint32_t is_over;                   /* the verdict is there; its key serves for our answer */
} gw__verifier;

static gw__verifier *gw__verifier_of(const br_x509_class **context)
{
    return (gw__verifier *)(void *)context;
}

/* After a verdict the rest of the chain is ignored: servers may send an expired cross-signature
 * behind it. */
static int gw__verifier_is_decided(const gw__verifier *verifier)
{
    return verifier->fault->reason || verifier->work->minimal.err;
}

/* "the certificate of HOST" or, of one above it, who it is; for the beginning of a sentence. */
static void gw__verifier_who(const gw__verifier *verifier, char *out, size_t cap)
{
    if (verifier->certificate_count <= 1)
        gw__text_format(out, cap, "the certificate of %s", verifier->host);
    else
        gw__text_format(out, cap, "the certificate \"%s\" above that of %s", verifier->subject,
                        verifier->host);
}

static void gw__verifier_refuse(gw__verifier *verifier, uint32_t reason, const char *why)
{
    char who[GW__HOST_MAX + 128];
    gw__verifier_who(verifier, who, sizeof who);
    gw__fault_set(verifier->fault, reason, 0, "TLS: %s %s", who, why);
}

static void gw__verifier_clock_text(const gw__verifier *verifier, char out[64])
{
    char date[32];
    gw__date_text(verifier->now, date);
    gw__text_format(out, 64, verifier->clock_is_floor ? "it is at least %s" : "our clock reads %s",
                    date);
}

static int gw__verifier_refuse_expired(gw__verifier *verifier, const gw__certificate *certificate)
{
    char clock[64], until[32], why[200];
    gw__verifier_clock_text(verifier, clock);
    gw__date_text(certificate->not_after, until);
    gw__text_format(why, sizeof why, "expired on %s and %s; if that is right, its owner must renew "
                    "it", until, clock);
    gw__verifier_refuse(verifier, GW_REASON_TLS_EXPIRED, why);
    return 0;
}

static int gw__verifier_refuse_not_yet(gw__verifier *verifier, const gw__certificate *certificate)
{
    char clock[64], from[32], why[240];
    gw__verifier_clock_text(verifier, clock);
    gw__date_text(certificate->not_before, from);
    gw__text_format(why, sizeof why, "is valid from %s on, but %s; set the clock of this machine, "
                    "or give config.unix_time or config.unix_time_floor", from, clock);
    gw__verifier_refuse(verifier, GW_REASON_TLS_NOT_YET, why);
    return 0;
}

/* With nothing but a floor the true time may be any later one. A certificate that begins after
 * the floor is then not refused: it exists, so it is at least that late, and the floor rises to
 * its beginning for the rest of the chain. Rising only makes the check of the end stricter; what
 * ended before the floor stays refused. */
static int gw__verifier_check_dates(gw__verifier *verifier, const gw__certificate *certificate)
{
    if (certificate->not_before > verifier->now) {
        if (!verifier->clock_is_floor) return gw__verifier_refuse_not_yet(verifier, certificate);
        verifier->now = certificate->not_before;
    }
    if (certificate->not_after < verifier->now)
        return gw__verifier_refuse_expired(verifier, certificate);
    verifier->valid_until = GW__MIN(verifier->valid_until, certificate->not_after);
    return 1;
}

static int gw__verifier_check_usage(gw__verifier *verifier, const gw__certificate *certificate)
{
    if (gw__certificate_may_serve(certificate)) return 1;
    gw__verifier_refuse(verifier, GW_REASON_TLS_INVALID,
                        "is not made for TLS servers (extended key usage)");
    return 0;
}

static void gw__verifier_refuse_name(gw__verifier *verifier)
{
    gw__fault_set(verifier->fault, GW_REASON_TLS_NAME, 0, "TLS: we asked for %s, but the server's "
                  "certificate is for %s; check the URL, or what stands between", verifier->host,
                  verifier->names);
}

/* BearSSL compares names only; for an IP address it is given no name, so this is the one check
 * there is. */
static int gw__verifier_check_address(gw__verifier *verifier, const gw__certificate *certificate)
{
    if (verifier->certificate_count > 1 || verifier->address_len == 0) return 1;
    if (gw__certificate_is_for_address(certificate, verifier->address.bytes,
                                       verifier->address_len)) return 1;
    gw__verifier_refuse_name(verifier);
    return 0;
}

/* What the sentences will need. */
static void gw__verifier_note(gw__verifier *verifier, const gw__certificate *certificate)
{
    gw__certificate_name(certificate->subject, verifier->subject, sizeof verifier->subject);
    gw__certificate_name(certificate->issuer, verifier->issuer, sizeof verifier->issuer);
    verifier->last_is_self_signed = (uint32_t)gw__certificate_is_self_signed(certificate);
    verifier->last_is_sha1 = (uint32_t)gw__certificate_is_sha1(certificate);
    if (verifier->certificate_count == 1)
        gw__certificate_names_text(certificate, verifier->names, sizeof verifier->names);
}

/* The subject counts for the first one only: a server's own certificate may be an anchor. */
static void gw__verifier_pick(gw__verifier *verifier, const gw__certificate *certificate)
{
    size_t count = gw__trust_pick(verifier->trust, certificate->issuer.at,
                                  certificate->issuer.left, verifier->work->picked, 0);
    verifier->last_is_claimed = count > 0;
    if (verifier->certificate_count == 1 && !verifier->last_is_self_signed)
        count = gw__trust_pick(verifier->trust, certificate->subject.at, certificate->subject.left,
                               verifier->work->picked, count);
    verifier->work->minimal.trust_anchors = verifier->work->picked;
    verifier->work->minimal.trust_anchors_num = count;
}

/* BearSSL counts days from the year 0; 719,528 of them lie before 1970. */
static void gw__verifier_hand_on(gw__verifier *verifier)
{
    const br_x509_class **minimal = &verifier->work->minimal.vtable;
    br_x509_minimal_set_time(&verifier->work->minimal, (uint32_t)(verifier->now / 86400 + 719528),
                             (uint32_t)(verifier->now % 86400));
    (*minimal)->start_cert(minimal, verifier->length);
    (*minimal)->append(minimal, verifier->work->bytes, verifier->length);
    (*minimal)->end_cert(minimal);
}

static void gw__verifier_certificate(gw__verifier *verifier)
{
    gw__certificate certificate;
    verifier->certificate_count++;
    if (verifier->length > sizeof verifier->work->bytes) {
        gw__verifier_refuse(verifier, GW_REASON_TLS_INVALID,
                            "is larger than the 8,192 bytes that we take");
        return;
    }
    if (!gw__certificate_read(&certificate, verifier->work->bytes, verifier->length)) {
        gw__verifier_refuse(verifier, GW_REASON_TLS_INVALID, "is malformed");
        return;
    }
    gw__verifier_note(verifier, &certificate);
    if (gw__verifier_check_dates(verifier, &certificate) &&
        gw__verifier_check_usage(verifier, &certificate) &&
        gw__verifier_check_address(verifier, &certificate)) {
        gw__verifier_pick(verifier, &certificate);
        gw__verifier_hand_on(verifier);
    }
}

/* One number of BearSSL's for what are different problems with different cures. */
static void gw__verifier_refuse_untrusted(gw__verifier *verifier)
{
    const char *where = verifier->trust->where, *issuer = verifier->issuer;
    unsigned long count = (unsigned long)verifier->trust->anchor_count;
    gw__fault *fault = verifier->fault;
    if (verifier->last_is_claimed)
        gw__fault_set(fault, GW_REASON_TLS_UNTRUSTED, 0, "TLS: the chain of %s claims the CA "
                      "\"%s\", but the key of that name in %s did not sign it (BearSSL 62)",
                      verifier->host, issuer, where);
    else if (verifier->last_is_self_signed && verifier->certificate_count == 1)
        gw__fault_set(fault, GW_REASON_TLS_UNTRUSTED, 0, "TLS: the certificate of %s is "
                      "self-signed; if it is yours, give it as config.ca_file or config.ca_pem "
                      "(BearSSL 62)", verifier->host);
    else if (verifier->certificate_count == 1)
        gw__fault_set(fault, GW_REASON_TLS_UNTRUSTED, 0, "TLS: the certificate of %s is issued by "
                      "\"%s\", which is not among the %lu of %s, and the server sent no "
                      "intermediate certificate: it may have to; else add that CA to "
                      "config.ca_file (BearSSL 62)", verifier->host, issuer, count, where);
    else
        gw__fault_set(fault, GW_REASON_TLS_UNTRUSTED, 0, "TLS: the chain of %s ends at the CA "
                      "\"%s\", which is not among the %lu of %s; add it to config.ca_file if you "
                      "trust it (BearSSL 62)", verifier->host, issuer, count, where);
}

static const char *gw__verifier_misuse_text(const gw__verifier *verifier, unsigned error)
{
    switch (error) {
    case BR_ERR_X509_EMPTY_CHAIN:
        return "is missing: the server sent none (BearSSL 35)";
    case BR_ERR_X509_UNSUPPORTED:
        if (verifier->last_is_sha1) return "is signed with SHA-1, which can be forged (BearSSL 49)";
        return "has a key or signature of a kind that we cannot check (BearSSL 49)";
    case BR_ERR_X509_WRONG_KEY_TYPE:
        return "has a key of another type than its signature (BearSSL 51)";
    case BR_ERR_X509_BAD_SIGNATURE:
        return "did not sign the one below it: forged, or mixed up (BearSSL 52)";
    case BR_ERR_X509_DN_MISMATCH:
        return "is not the issuer of the one below it: is the order wrong? (BearSSL 55)";
    case BR_ERR_X509_CRITICAL_EXTENSION:
        return "has a critical extension that we do not know (BearSSL 57)";
    case BR_ERR_X509_NOT_CA:
        return "is not one of a CA, or not of so long a chain (BearSSL 58)";
    case BR_ERR_X509_FORBIDDEN_KEY_USAGE:
        return "may not be used for this by its key usage (BearSSL 59)";
    case BR_ERR_X509_WEAK_PUBLIC_KEY:
        return "has an RSA key below 2048 bits (BearSSL 60)";
    default:
        return "is malformed, or beyond what BearSSL takes";
    }
}

static void gw__verifier_explain(gw__verifier *verifier, unsigned error)
{
    switch (error) {
    case BR_ERR_X509_NOT_TRUSTED:
        gw__verifier_refuse_untrusted(verifier);
        break;
    case BR_ERR_X509_BAD_SERVER_NAME:
        gw__verifier_refuse_name(verifier);
        break;
    default:
        gw__verifier_refuse(verifier, GW_REASON_TLS_INVALID,
                            gw__verifier_misuse_text(verifier, error));
        break;
    }
}

/* SHA-1 is left out and RSA begins at 2048 bits (256 bytes). 0: no memory, which is the verdict
 * then. */
static int gw__verifier_begin(gw__verifier *verifier)
{
    br_x509_minimal_context *minimal;
    verifier->work = (gw__verifier_work *)gw__mem_new(verifier->mem, sizeof *verifier->work);
    if (!verifier->work) {
        gw__fault_set(verifier->fault, GW_REASON_MEMORY, 0,
                      "TLS: no memory to look at the certificates of %s", verifier->host);
        return 0;
    }
    minimal = &verifier->work->minimal;
    br_x509_minimal_init(minimal, &br_sha256_vtable, verifier->work->picked, 0);
    br_x509_minimal_set_hash(minimal, br_sha256_ID, &br_sha256_vtable);
    br_x509_minimal_set_hash(minimal, br_sha384_ID, &br_sha384_vtable);
    br_x509_minimal_set_hash(minimal, br_sha512_ID, &br_sha512_vtable);
    br_x509_minimal_set_rsa(minimal, br_rsa_pkcs1_vrfy_get_default());
    br_x509_minimal_set_ecdsa(minimal, br_ec_get_default(), br_ecdsa_vrfy_asn1_get_default());
    br_x509_minimal_set_minrsa(minimal, 256);
    return 1;
}

static void gw__verifier_end(gw__verifier *verifier)
{
    gw__mem_free(verifier->mem, verifier->work, sizeof *verifier->work);
    verifier->work = NULL;
}

static void gw__verifier_on_chain_begin(const br_x509_class **context, const char *server_name)
{
    gw__verifier *verifier = gw__verifier_of(context);
    const br_x509_class **minimal;
    if (!gw__verifier_begin(verifier)) return;
    minimal = &verifier->work->minimal.vtable;
    (*minimal)->start_chain(minimal, server_name);
}

static void gw__verifier_on_begin(const br_x509_class **context, uint32_t length)
{
    gw__verifier *verifier = gw__verifier_of(context);
    verifier->length = length;
    verifier->filled = 0;
}

static void gw__verifier_on_bytes(const br_x509_class **context, const unsigned char *bytes,
                                  size_t len)
{
    gw__verifier *verifier = gw__verifier_of(context);
    if (!verifier->work || verifier->length > sizeof verifier->work->bytes ||
        len > verifier->length - verifier->filled) return;
    memcpy(verifier->work->bytes + verifier->filled, bytes, len);
    verifier->filled += (uint32_t)len;
}

static void gw__verifier_on_end(const br_x509_class **context)
{
    gw__verifier *verifier = gw__verifier_of(context);
    if (!gw__verifier_is_decided(verifier)) gw__verifier_certificate(verifier);
}

static unsigned gw__verifier_on_chain_end(const br_x509_class **context)
{
    gw__verifier *verifier = gw__verifier_of(context);
    const br_x509_class **minimal;
    unsigned error;
    if (!verifier->work) return BR_ERR_X509_NOT_TRUSTED;
    verifier->is_over = 1;
    minimal = &verifier->work->minimal.vtable;
    error = (*minimal)->end_chain(minimal);
    if (error) gw__verifier_explain(verifier, error);
    return verifier->fault->reason && !error ? (unsigned)BR_ERR_X509_NOT_TRUSTED : error;
}

static const br_x509_pkey *gw__verifier_on_key(const br_x509_class *const *context,
                                               unsigned *usages)
{
    const gw__verifier *verifier = (const gw__verifier *)(const void *)context;
    const br_x509_class *const *minimal;
    if (!verifier->work) return NULL;
    minimal = &verifier->work->minimal.vtable;
    return (*minimal)->get_pkey(minimal, usages);
}

static const br_x509_class gw__verifier_class = {
    sizeof(gw__verifier),
    gw__verifier_on_chain_begin, gw__verifier_on_begin, gw__verifier_on_bytes, gw__verifier_on_end,
    gw__verifier_on_chain_end, gw__verifier_on_key
};

/* ---- one connection ---- */
typedef enum gw__tls_state {
    GW__TLS_HANDSHAKE,
    GW__TLS_OPEN,
    GW__TLS_ENDED,                      /* by close_notify */
    GW__TLS_FAILED                      /* gw__tls_fault() says why */
} gw__tls_state;

/* Resumes a session without a look at certificates, so it is bound to all that their check
 * depended on. Holds a secret: in memory only, wiped by who keeps it. */
typedef struct gw__tls_ticket {
    br_ssl_session_parameters parameters;
    char host[GW__HOST_MAX];
    uint16_t port;
    uint32_t trust_generation;
    int64_t valid_until;                /* when the first certificate of the chain expires */
    uint32_t filled;
} gw__tls_ticket;

typedef struct gw__tls {
    gw__mem *mem;
    gw__verifier verifier;              /* works until it is open */
    br_ssl_client_context client;
    gw__fault fault;
    char host[GW__HOST_MAX];
    uint16_t port;
    uint32_t trust_generation;
    int64_t valid_until;
    uint32_t is_open, is_closing;       /* is_closing: gw__tls_close() was called */
    uint32_t hello_left;                /* ours, whole: what leaves behind it is an answer */
    uint64_t received;                  /* bytes of ciphertext */
    uint8_t first[5];                   /* of them: a record's header, or what is no TLS */
    uint8_t *in;                        /* GW__TLS_IN_BYTES; NULL: it rests */
    uint8_t out[GW__TLS_OUT_BYTES];
} gw__tls;

/* AES-GCM first only where the machine has instructions for both its halves: BearSSL's
 * constant-time C is several times slower than its ChaCha20, and it has no AES instructions of
 * ARM. */
static int gw__tls_prefers_aes(void)
{
    return (br_aes_x86ni_ctr_get_vtable() && br_ghash_pclmul_get()) ||
           (br_aes_pwr8_ctr_get_vtable() && br_ghash_pwr8_get());
}

static void gw__tls_set_suites(br_ssl_engine_context *engine)
{
    static const uint16_t suites[] = {
        BR_TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        BR_TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        BR_TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        BR_TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        BR_TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        BR_TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        BR_TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,   /* six from the third on: AES first */
        BR_TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256
    };
    br_ssl_engine_set_suites(engine, suites + (gw__tls_prefers_aes() ? 2 : 0), 6);
}

static void gw__tls_set_algorithms(br_ssl_engine_context *engine)
{
    br_ssl_engine_set_hash(engine, br_sha256_ID, &br_sha256_vtable);
    br_ssl_engine_set_hash(engine, br_sha384_ID, &br_sha384_vtable);
    br_ssl_engine_set_hash(engine, br_sha512_ID, &br_sha512_vtable);
    br_ssl_engine_set_prf_sha256(engine, br_tls12_sha256_prf);
    br_ssl_engine_set_prf_sha384(engine, br_tls12_sha384_prf);
    br_ssl_engine_set_default_aes_gcm(engine);
    br_ssl_engine_set_default_chapol(engine);
    br_ssl_engine_set_default_ec(engine);
    br_ssl_engine_set_default_ecdsa(engine);
    br_ssl_engine_set_default_rsavrfy(engine);
}

static void gw__tls_set_engine(gw__tls *tls, const uint8_t seed[32])
{
    br_ssl_engine_context *engine = &tls->client.eng;
    br_ssl_client_zero(&tls->client);
    br_ssl_engine_set_versions(engine, BR_TLS12, BR_TLS12);
    gw__tls_set_suites(engine);
    gw__tls_set_algorithms(engine);
    br_ssl_engine_set_x509(engine, &tls->verifier.vtable);
    br_ssl_engine_add_flags(engine, BR_OPT_NO_RENEGOTIATION);   /* so the verifier may go early */
    br_ssl_engine_set_buffers_bidi(engine, tls->first, GW__TLS_IN_BYTES, tls->out, sizeof tls->out);
    /* Our small output buffer would make BearSSL ask the server for small records (RFC 6066
     * section 4). */
    engine->log_max_frag_len = 14;
    /* The seed is all the randomness there is, and comes from the system or the config's hook:
     * so a run can be replayed. */
    br_ssl_engine_inject_entropy(engine, seed, 32);
    engine->rng_os_rand_done = 1;
}

static void gw__tls_set_verifier(gw__tls *tls, const gw__trust *trust, uint64_t unix_time,
                                 uint32_t clock_is_floor)
{
    gw__verifier *verifier = &tls->verifier;
    verifier->vtable = &gw__verifier_class;
    verifier->mem = tls->mem;
    verifier->valid_until = INT64_MAX;
    verifier->trust = trust;
    verifier->host = tls->host;
    verifier->fault = &tls->fault;
    verifier->now = (int64_t)GW__MIN(unix_time, UINT64_C(253402300799));    /* the end of 9999 */
    verifier->clock_is_floor = clock_is_floor;
    if (gw__sys_address_parse(tls->host, 0, &verifier->address))
        verifier->address_len = verifier->address.is_v6 ? 16u : 4u;
}

static int gw__tls_ticket_fits(const gw__tls *tls, const gw__tls_ticket *ticket, int64_t now)
{
    return ticket && ticket->filled && strcmp(ticket->host, tls->host) == 0 &&
           ticket->port == tls->port && ticket->trust_generation == tls->trust_generation &&
           ticket->valid_until >= now;
}

/* An IP address is not sent as server name (RFC 6066 section 3), and BearSSL is given none to
 * compare. */
static int gw__tls_begin(gw__tls *tls, const gw__tls_ticket *ticket)
{
    int resume = gw__tls_ticket_fits(tls, ticket, tls->verifier.now);
    if (resume) {
        br_ssl_engine_set_session_parameters(&tls->client.eng, &ticket->parameters);
        tls->valid_until = ticket->valid_until;
    }
    return br_ssl_client_reset(&tls->client, tls->verifier.address_len ? NULL : tls->host, resume);
}

static void gw__tls_drop_in(gw__tls *tls)
{
    if (!tls->in) return;
    gw__mem_wipe(tls->in, GW__TLS_IN_BYTES);
    gw__mem_free(tls->mem, tls->in, GW__TLS_IN_BYTES);
    tls->in = NULL;
}

/* Wipes the keys. */
static void gw__tls_free(gw__tls *tls)
{
    gw__mem *mem;
    if (!tls) return;
    mem = tls->mem;
    gw__verifier_end(&tls->verifier);
    gw__tls_drop_in(tls);
    gw__mem_wipe(tls, sizeof *tls);
    gw__mem_free(mem, tls, sizeof *tls);
}

/* A client for one connection; NULL: the fault says why. Trust must outlive its handshake, the
 * rest is copied.
 *   unix_time       seconds; clock_is_floor: it is only known to be at least so late
 *   ticket          from gw__tls_save(), or NULL; one for another host, port or trust is ignored */
static gw__tls *gw__tls_new(gw__mem *mem, gw__trust *trust, const char *host, uint16_t port,
                            uint64_t unix_time, uint32_t clock_is_floor, const uint8_t seed[32],
                            const gw__tls_ticket *ticket, gw__fault *fault)
{
    gw__tls *tls;
    if (unix_time == 0) {
        gw__fault_set(fault, GW_REASON_TLS_NOT_YET, 0, "TLS: this machine does not know the time, "
                      "so no certificate can be checked; set its clock, or give config.unix_time "
                      "or config.unix_time_floor");
        return NULL;
    }
    tls = (gw__tls *)gw__mem_new(mem, sizeof *tls);
    if (!tls) {
        gw__fault_set(fault, GW_REASON_MEMORY, 0, "TLS: no memory for a connection to %s", host);
        return NULL;
    }
    tls->mem = mem;
    gw__text_format(tls->host, sizeof tls->host, "%s", host);
    tls->port = port;
    tls->trust_generation = trust->generation;
    gw__tls_set_verifier(tls, trust, unix_time, clock_is_floor);
    gw__tls_set_engine(tls, seed);
    if (gw__tls_begin(tls, ticket)) return tls;
    gw__fault_set(fault, GW_REASON_TLS_OTHER, 0, "TLS: BearSSL cannot begin (BearSSL %d)",
                  br_ssl_engine_last_error(&tls->client.eng));
    gw__tls_free(tls);
    return NULL;
}

/* ---- why it ended ---- */

/* RFC 5246 section 7.2, RFC 6066, RFC 7301; what to look at, where there is something. */
static const char *gw__tls_alert_text(int alert)
{
    switch (alert) {
    case 10:  return "unexpected_message";
    case 20:  return "bad_record_mac";
    case 22:  return "record_overflow";
    case 40:  return "handshake_failure: no cipher in common, or it wants a client certificate";
    case 42:  return "bad_certificate";
    case 47:  return "illegal_parameter";
    case 48:  return "unknown_ca";
    case 49:  return "access_denied";
    case 50:  return "decode_error";
    case 51:  return "decrypt_error";
    case 70:  return "protocol_version: it may speak TLS 1.3 only, and we speak TLS 1.2";
    case 71:  return "insufficient_security";
    case 80:  return "internal_error: a fault over there";
    case 86:  return "inappropriate_fallback";
    case 90:  return "user_canceled";
    case 110: return "unsupported_extension";
    case 112: return "unrecognized_name: it does not serve this host";
    case 116: return "certificate_required: it wants a client certificate";
    case 120: return "no_application_protocol";
    default:  return "an alert without a name";
    }
}

/* A server that knows nothing newer than TLS 1.1 has none of our suites, and says just that
 * (handshake_failure); the version of its record gives it away. */
static int gw__tls_is_old_server(const gw__tls *tls, int alert)
{
    return alert == 40 && tls->first[0] == 21 && tls->first[2] < 3;
}

static void gw__tls_explain_alert(gw__tls *tls, int alert, int is_theirs)
{
    uint32_t reason = is_theirs ? GW_REASON_TLS_ALERT : GW_REASON_TLS_PROTOCOL;
    if (alert == 70) reason = GW_REASON_TLS_VERSION;
    if (is_theirs && gw__tls_is_old_server(tls, alert))
        gw__fault_set(&tls->fault, GW_REASON_TLS_VERSION, 0,
                      "TLS: %s speaks nothing newer than TLS 1.1; TLS 1.2 is needed", tls->host);
    else if (is_theirs && tls->is_open)     /* the advice behind a name is about handshakes */
        gw__fault_set(&tls->fault, reason, 0, "TLS: %s ended the open connection with alert %d, "
                      "%.*s", tls->host, alert, (int)strcspn(gw__tls_alert_text(alert), ":"),
                      gw__tls_alert_text(alert));
    else if (is_theirs)
        gw__fault_set(&tls->fault, reason, 0, "TLS: %s refused with alert %d, %s", tls->host,
                      alert, gw__tls_alert_text(alert));
    else
        gw__fault_set(&tls->fault, reason, 0, "TLS: we refused what %s sent with alert %d, %s",
                      tls->host, alert, alert == 70 ? "protocol_version: it is older than TLS 1.2"
                                                    : gw__tls_alert_text(alert));
}

static void gw__tls_explain_not_tls(gw__tls *tls)
{
    char said[sizeof tls->first + 1];
    gw__text_printable(said, sizeof said, tls->first, sizeof tls->first);
    if (memcmp(tls->first, "HTTP/", 5) == 0)
        gw__fault_set(&tls->fault, GW_REASON_TLS_PROTOCOL, 0, "TLS: the server speaks plain HTTP: "
                      "%s port %u is no TLS port, or a proxy answered in its place", tls->host,
                      (unsigned)tls->port);
    else
        gw__fault_set(&tls->fault, GW_REASON_TLS_PROTOCOL, 0, "TLS: %s port %u does not speak TLS; "
                      "it begins with \"%s\"", tls->host, (unsigned)tls->port, said);
}

/* A record begins with its type, 20 to 23, then a 3 (RFC 5246 section 6.2.1). */
static int gw__tls_is_not_tls(const gw__tls *tls)
{
    if (tls->received < sizeof tls->first) return 0;
    return tls->first[0] < 20 || tls->first[0] > 23 || tls->first[1] != 3;
}

static void gw__tls_explain_error(gw__tls *tls, int error)
{
    uint32_t reason = GW_REASON_TLS_PROTOCOL;
    const char *what = "broke the rules of TLS";
    switch (error) {
    case BR_ERR_UNSUPPORTED_VERSION:
        reason = GW_REASON_TLS_VERSION;
        what = "speaks a TLS older than 1.2";
        break;
    case BR_ERR_BAD_MAC:
        reason = GW_REASON_TLS_MAC;
        what = "sent a record that was damaged or forged on its way";
        break;
    case BR_ERR_BAD_FINISHED:
        what = "and we did not see the same handshake: somebody stands between";
        break;
    case BR_ERR_BAD_SIGNATURE:
        what = "cannot prove that it has the key of its certificate";
        break;
    case BR_ERR_TOO_LARGE: case BR_ERR_BAD_LENGTH:
        what = "sent a record larger than TLS allows";
        break;
    case BR_ERR_BAD_CIPHER_SUITE:
        what = "chose a cipher that we did not offer";
        break;
    case BR_ERR_WRONG_KEY_USAGE: case BR_ERR_INVALID_ALGORITHM:
        reason = GW_REASON_TLS_INVALID;
        what = "has a certificate whose key may not be used with the cipher it chose (key usage)";
        break;
    case BR_ERR_BAD_PARAM: case BR_ERR_BAD_STATE: case BR_ERR_NO_RANDOM: case BR_ERR_LIMIT_EXCEEDED:
        reason = GW_REASON_TLS_OTHER;
        what = "cannot be talked to: BearSSL gave up";
        break;
    default: break;
    }
    gw__fault_set(&tls->fault, reason, 0, "TLS: %s %s (BearSSL %d)", tls->host, what, error);
}

/* The engine stopped with an error; what the verifier found is in the fault already and stays. */
static void gw__tls_explain(gw__tls *tls, int error)
{
    if (!tls->is_open && gw__tls_is_not_tls(tls))
        gw__tls_explain_not_tls(tls);
    else if (error >= BR_ERR_SEND_FATAL_ALERT)
        gw__tls_explain_alert(tls, error - BR_ERR_SEND_FATAL_ALERT, 0);
    else if (error >= BR_ERR_RECV_FATAL_ALERT)
        gw__tls_explain_alert(tls, error - BR_ERR_RECV_FATAL_ALERT, 1);
    else
        gw__tls_explain_error(tls, error);
}

/* TCP ended. Without close_notify anybody on the way may have cut it: RFC 5246 section 7.2.1. */
static void gw__tls_wire_end(gw__tls *tls)
{
    if (br_ssl_engine_current_state(&tls->client.eng) == BR_SSL_CLOSED || tls->is_closing) return;
    if (!tls->is_open)
        gw__fault_set(&tls->fault, GW_REASON_LOST, 0, "TLS: %s ended the connection during the "
                      "handshake, %s", tls->host, tls->received ? "without saying why"
                      : "without a word: is it a TLS port?");
    else
        gw__fault_set(&tls->fault, GW_REASON_LOST, 0,
                      "TLS: the connection to %s ended without close_notify", tls->host);
}

/* ---- the pump ---- */
static gw__tls_state gw__tls_look_closed(gw__tls *tls)
{
    int error = br_ssl_engine_last_error(&tls->client.eng);
    if (error == BR_ERR_OK && (tls->is_open || tls->is_closing)) return GW__TLS_ENDED;
    if (error != BR_ERR_OK)
        gw__tls_explain(tls, error);
    else
        gw__fault_set(&tls->fault, GW_REASON_LOST, 0,
                      "TLS: %s closed during the handshake, without saying why", tls->host);
    return GW__TLS_FAILED;
}

/* A full handshake has asked the verifier; a resumed one keeps what its ticket said. */
static void gw__tls_enter_open(gw__tls *tls)
{
    if (tls->verifier.certificate_count) tls->valid_until = tls->verifier.valid_until;
    gw__verifier_end(&tls->verifier);
    tls->is_open = 1;
}

static gw__tls_state gw__tls_look(gw__tls *tls)
{
    unsigned now = br_ssl_engine_current_state(&tls->client.eng);
    if (tls->fault.reason) return GW__TLS_FAILED;
    if (now == BR_SSL_CLOSED) return gw__tls_look_closed(tls);
    if (!tls->is_open && (now & (BR_SSL_SENDAPP | BR_SSL_RECVAPP))) gw__tls_enter_open(tls);
    return tls->is_open ? GW__TLS_OPEN : GW__TLS_HANDSHAKE;
}

static const gw__fault *gw__tls_fault(gw__tls *tls)
{
    gw__tls_look(tls);
    return &tls->fault;
}

/* Where ciphertext may be put; NULL: none is wanted now, since plaintext waits to be taken. */
static uint8_t *gw__tls_wire_in(gw__tls *tls, size_t *cap)
{
    return br_ssl_engine_recvrec_buf(&tls->client.eng, cap);
}

static void gw__tls_wire_in_done(gw__tls *tls, size_t len)
{
    size_t cap, i;
    const uint8_t *bytes = br_ssl_engine_recvrec_buf(&tls->client.eng, &cap);
    GW_ASSERT(len <= cap);
    for (i = 0; bytes && i < len && tls->received + i < sizeof tls->first; i++)
        tls->first[(size_t)tls->received + i] = bytes[i];
    tls->received += len;
    br_ssl_engine_recvrec_ack(&tls->client.eng, len);
}

/* Nothing comes in: between two records BearSSL's buffer is empty, and three quarters of what an
 * idle connection needs. It goes back until gw__tls_wake(), without which nothing may be put in. A
 * fixed block keeps it, as it may not find the place again. */
static void gw__tls_rest(gw__tls *tls)
{
    br_ssl_engine_context *engine = &tls->client.eng;
    if (tls->mem->block || engine->ixa || engine->ixb) return;
    gw__tls_drop_in(tls);
    engine->ibuf = tls->first;          /* BearSSL takes NULL for "not now" */
}

/* 0: no memory. */
static int gw__tls_wake(gw__tls *tls)
{
    if (tls->in) return 1;
    tls->in = (uint8_t *)gw__mem_resize(tls->mem, NULL, 0, GW__TLS_IN_BYTES);
    if (!tls->in) return 0;
    tls->client.eng.ibuf = tls->in;
    return 1;
}

/* Ciphertext to be sent; NULL: none. */
static uint8_t *gw__tls_wire_out(gw__tls *tls, size_t *len)
{
    return br_ssl_engine_sendrec_buf(&tls->client.eng, len);
}

static void gw__tls_wire_out_done(gw__tls *tls, size_t len)
{
    size_t more;
    br_ssl_engine_sendrec_ack(&tls->client.eng, len);
    if (tls->hello_left && tls->verifier.is_over) gw__verifier_end(&tls->verifier);
    if (!gw__tls_wire_out(tls, &more)) tls->hello_left = 1;
}

/* Plaintext received, valid until it is done with; NULL: none. */
static uint8_t *gw__tls_plain_in(gw__tls *tls, size_t *len)
{
    return br_ssl_engine_recvapp_buf(&tls->client.eng, len);
}

static void gw__tls_plain_in_done(gw__tls *tls, size_t len)
{
    br_ssl_engine_recvapp_ack(&tls->client.eng, len);
}

/* Where plaintext to be sent may be put; NULL: not now, ciphertext waits to be sent. */
static uint8_t *gw__tls_plain_out(gw__tls *tls, size_t *cap)
{
    return br_ssl_engine_sendapp_buf(&tls->client.eng, cap);
}

/* The bytes become one record at once. */
static void gw__tls_plain_out_done(gw__tls *tls, size_t len)
{
    br_ssl_engine_sendapp_ack(&tls->client.eng, len);
    br_ssl_engine_flush(&tls->client.eng, 0);
}

/* Sends close_notify; plaintext not yet taken, and what still comes, is dropped. */
static void gw__tls_close(gw__tls *tls)
{
    tls->is_closing = 1;
    br_ssl_engine_close(&tls->client.eng);
}

/* After OPEN: what a later connection to the same host may begin with. Not filled where the
 * server gave no session. */
static void gw__tls_save(gw__tls *tls, gw__tls_ticket *ticket)
{
    gw__mem_wipe(ticket, sizeof *ticket);
    if (gw__tls_look(tls) != GW__TLS_OPEN) return;
    br_ssl_engine_get_session_parameters(&tls->client.eng, &ticket->parameters);
    memcpy(ticket->host, tls->host, sizeof ticket->host);
    ticket->port = tls->port;
    ticket->trust_generation = tls->trust_generation;
    ticket->valid_until = tls->valid_until;
    ticket->filled = ticket->parameters.session_id_len > 0;
}

static size_t gw__trust_count_pem(const char *text)
{
    size_t count = 0;
    for (text = strstr(text, "-----BEGIN "); text; text = strstr(text + 1, "-----BEGIN ")) count++;
    return count;
}

/* Upper bound of what one trust keeps, and of its loader while it reads; the handshake begins after
 * that. A file's anchors are counted as the most we take. */
static size_t gw__trust_memory_needed(const gw__trust_source *source)
{
    size_t anchors = GW__TRUST_ANCHORS_MAX;
    if (source->anchors && source->anchor_count) return 0;
    if (source->ca_pem) anchors = gw__trust_count_pem(source->ca_pem);
#ifdef GW_BUNDLED_ROOTS
    else if (source->memory_only) anchors = GW__COUNT(gw__trust_bundled);
#else
    else if (source->memory_only) anchors = 0;
#endif
    return anchors * (sizeof(gw__anchor) + 256 + BR_X509_BUFSIZE_KEY + 2 * GW__CELL_ALIGN);
}


/* ==========================================================================
 * >> room: http -- one small request and its answer (RFC 9110, RFC 9112), on bytes.
 *    Knows:  status line, headers, the three ways a body ends, the upgrade of RFC 6455 section 4.
 *    Not:    sockets, TLS, redirects, keep-alive, content codings, JSON.
 *    An answer is read as a careful peer would read it: where two readers could
 *    disagree about its end, it is refused. Everything in it has a maximum.
 * ========================================================================== */

#define GW__USER_AGENT \
    "DiscordBot (https://github.com/discord-gateway-h/discord_gateway.h, " GW_VERSION_TEXT ")"

enum {
    GW__HTTP_LINE_MAX = 8 * 1024,
    GW__HTTP_HEAD_MAX = 32 * 1024,          /* head and trailers, interim answers included */
    GW__HTTP_HEADERS_MAX = 100,
    GW__HTTP_INTERIMS_MAX = 8,              /* 1xx answers in front of the real one */
    GW__HTTP_ANSWER_MAX = 1024 * 1024,      /* all bytes of an answer, chunk sizes included */
    GW__HTTP_REQUEST_MAX = 2048,
    GW__HTTP_RETRY_MAX_MS = 24 * 60 * 60 * 1000
};

/* What was asked for; it decides where the answer ends. An UPGRADE ends at the head of its 101, a
 * CONNECT at the head of any 2xx (RFC 9110 section 9.3.6): what follows is another protocol's and
 * is not consumed. */
enum { GW__HTTP_GET = 0, GW__HTTP_UPGRADE = 1, GW__HTTP_CONNECT = 2 };

typedef enum gw__http_found { GW__HTTP_NEED_MORE, GW__HTTP_DONE, GW__HTTP_BROKEN } gw__http_found;

typedef enum gw__http_part {
    GW__HTTP_AT_STATUS, GW__HTTP_AT_HEADER,                                 /* lines of the head */
    GW__HTTP_AT_CHUNK_SIZE, GW__HTTP_AT_CHUNK_END, GW__HTTP_AT_TRAILER,     /* lines behind it */
    GW__HTTP_IN_LENGTH, GW__HTTP_IN_CHUNK, GW__HTTP_UNTIL_END,              /* body */
    GW__HTTP_COMPLETE, GW__HTTP_FAILED
} gw__http_part;

typedef struct gw__http {
    gw__http_part part;             /* what the next byte belongs to */
    uint32_t asked;                 /* GW__HTTP_GET, UPGRADE or CONNECT */
    int32_t  status;                /* 0: no status line yet */
    uint32_t minor_version;
    gw__buf  line;                  /* as far as it has come */
    gw__buf  body;
    size_t   body_max;
    uint64_t body_left;             /* of the Content-Length, or of the chunk in hand */
    uint64_t answer_bytes, head_bytes;
    uint32_t header_count, interim_count;
    uint32_t has_length, has_chunked;
    uint64_t length;
    uint32_t has_retry_after;
    uint64_t retry_after_ms;
    uint32_t connection_upgrade;    /* Connection names "upgrade" */
    char     upgrade[32];           /* header values, cut; repeated ones joined by ", " */
    char     accept[64];
    char     extensions[64];
    char     protocol[64];
    char     location[160];
    gw__fault fault;                /* after BROKEN */
} gw__http;

/* upgrade: GW__HTTP_GET (0), GW__HTTP_UPGRADE (1) or GW__HTTP_CONNECT. body_max: bytes kept of the
 * body. A longer one breaks an answer that is wanted; one that is only shown to people (an error)
 * is cut there, and is then DONE. */
static void gw__http_begin(gw__http *http, gw__mem *mem, size_t body_max, int upgrade)
{
    memset(http, 0, sizeof *http);
    http->asked = (uint32_t)upgrade;
    http->body_max = body_max;
    gw__buf_init(&http->line, mem, GW__HTTP_LINE_MAX);
    gw__buf_init(&http->body, mem, body_max);
}

static void gw__http_free(gw__http *http)
{
    gw__buf_free(&http->line);
    gw__buf_free(&http->body);
}

static void gw__http_break(gw__http *http, uint32_t reason, const char *why)
{
    http->part = GW__HTTP_FAILED;
    if (http->status)
        gw__fault_set(&http->fault, reason, 0, "HTTP: %s (in an answer of status %d)",
                      why, (int)http->status);
    else
        gw__fault_set(&http->fault, reason, 0, "HTTP: %s", why);
}

/* Is the body only there to be shown to people? Then a piece of it will do. */
static int gw__http_is_refusal(const gw__http *http)
{
    return http->asked != GW__HTTP_GET || http->status >= 300;
}

/* -- lines -- */

static int gw__http_is_digit(char byte)
{
    return byte >= '0' && byte <= '9';
}

static int gw__http_is_token_byte(char byte)      /* RFC 9110 section 5.6.2 */
{
    char low = (char)(byte | 0x20);
    if ((low >= 'a' && low <= 'z') || gw__http_is_digit(byte)) return 1;
    return byte && strchr("!#$%&'*+-.^_`|~", byte);
}

static void gw__http_trim(const char **text, size_t *len)
{
    while (*len > 0 && ((*text)[0] == ' ' || (*text)[0] == '\t')) {
        ++*text;
        --*len;
    }
    while (*len > 0 && ((*text)[*len - 1] == ' ' || (*text)[*len - 1] == '\t')) --*len;
}

/* Does a comma-separated list name the word? */
static int gw__http_list_has(const char *list, size_t len, const char *word)
{
    while (len > 0) {
        const char *comma = (const char *)memchr(list, ',', len);
        size_t item_len = comma ? (size_t)(comma - list) : len;
        size_t step = comma ? item_len + 1 : item_len;
        const char *item = list;
        gw__http_trim(&item, &item_len);
        if (gw__text_same_nocase(item, item_len, word)) return 1;
        list += step;
        len -= step;
    }
    return 0;
}

/* "HTTP/1.1 200 OK"; the reason phrase says nothing to us (RFC 9112 section 4). */
static void gw__http_on_status(gw__http *http, const char *line, size_t len)
{
    if (len < 12 || memcmp(line, "HTTP/1.", 7) != 0 || !gw__http_is_digit(line[7]) || line[8] != ' '
        || line[9] < '1' || line[9] > '5' || !gw__http_is_digit(line[10])
        || !gw__http_is_digit(line[11]) || (len > 12 && line[12] != ' ')) {
        gw__http_break(http, GW_REASON_PROTOCOL, "the status line is malformed");
        return;
    }
    http->minor_version = (uint32_t)(line[7] - '0');
    http->status = (line[9] - '0') * 100 + (line[10] - '0') * 10 + (line[11] - '0');
    http->part = GW__HTTP_AT_HEADER;
}

static void gw__http_on_length(gw__http *http, const char *value, size_t len)
{
    uint64_t length = 0;
    if (!gw__text_to_u64(value, len, &length))
        gw__http_break(http, GW_REASON_PROTOCOL, "Content-Length is no number");
    else if (length > GW__HTTP_ANSWER_MAX)
        gw__http_break(http, GW_REASON_PROTOCOL, "Content-Length is above 1 MiB");
    else if (http->has_length && http->length != length)
        gw__http_break(http, GW_REASON_PROTOCOL, "two Content-Length headers differ");
    http->has_length = 1;
    http->length = length;
}

static void gw__http_on_coding(gw__http *http, const char *value, size_t len)
{
    int is_chunked = gw__text_same_nocase(value, len, "chunked");
    if (!is_chunked || http->has_chunked || http->minor_version == 0)
        gw__http_break(http, GW_REASON_PROTOCOL,
                       "a Transfer-Encoding other than chunked, once, in HTTP/1.1");
    http->has_chunked = 1;
}

/* Seconds, as Discord sends them also with a fraction, rounded up so that nobody comes back too
 * early; at most a day. A date is passed over: it would need a clock that is right. */
static void gw__http_on_retry_after(gw__http *http, const char *value, size_t len)
{
    const char *dot = (const char *)memchr(value, '.', len);
    size_t whole_len = dot ? (size_t)(dot - value) : len, at;
    const uint64_t day_ms = GW__HTTP_RETRY_MAX_MS;
    uint64_t ms, unit = 100;
    int above = 0;
    for (at = 0; at < whole_len; at++) if (!gw__http_is_digit(value[at])) return;
    if (whole_len == 0 || (dot && whole_len + 1 == len)) return;
    if (!gw__text_to_u64(value, whole_len, &ms) || ms > day_ms / 1000) ms = day_ms / 1000;
    ms *= 1000;
    for (at = whole_len + 1; at < len; at++, unit /= 10) {
        if (!gw__http_is_digit(value[at])) return;
        if (unit == 0 && value[at] != '0') above = 1;
        ms += (uint64_t)(value[at] - '0') * unit;
    }
    ms += above ? 1 : 0;
    http->has_retry_after = 1;
    http->retry_after_ms = ms < day_ms ? ms : day_ms;
}

/* RFC 9110 section 5.3: a header that is repeated is one list. Where one value is wanted, a list
 * then fails to match. */
static void gw__http_keep_value(char *kept, size_t cap, const char *value, size_t len)
{
    size_t at = strlen(kept);
    if (at > 0) at += gw__text_format(kept + at, cap - at, ", ");
    gw__text_printable(kept + at, cap - at, value, len);
}

/* Where the text of a header is kept; NULL: nothing of it is. */
static char *gw__http_kept(gw__http *http, const char *name, size_t name_len, size_t *cap)
{
    const struct { const char *name; char *kept; size_t cap; } rows[] = {
        { "upgrade",                  http->upgrade,    sizeof http->upgrade },
        { "sec-websocket-accept",     http->accept,     sizeof http->accept },
        { "sec-websocket-extensions", http->extensions, sizeof http->extensions },
        { "sec-websocket-protocol",   http->protocol,   sizeof http->protocol },
        { "location",                 http->location,   sizeof http->location }
    };
    size_t i;
    for (i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (!gw__text_same_nocase(name, name_len, rows[i].name)) continue;
        *cap = rows[i].cap;
        return rows[i].kept;
    }
    return NULL;
}

static void gw__http_on_header(gw__http *http, const char *name, size_t name_len,
                               const char *value, size_t len)
{
    size_t cap;
    char *kept = gw__http_kept(http, name, name_len, &cap);
    if (kept)
        gw__http_keep_value(kept, cap, value, len);
    else if (gw__text_same_nocase(name, name_len, "content-length"))
        gw__http_on_length(http, value, len);
    else if (gw__text_same_nocase(name, name_len, "transfer-encoding"))
        gw__http_on_coding(http, value, len);
    else if (gw__text_same_nocase(name, name_len, "retry-after"))
        gw__http_on_retry_after(http, value, len);
    else if (gw__text_same_nocase(name, name_len, "connection"))
        http->connection_upgrade |= gw__http_list_has(value, len, "upgrade") ? 1u : 0u;
}

/* "Name: value". No folding, no space in front of the colon: RFC 9112 sections 5.1 and 5.2.
 * Trailers are looked at for their shape only (RFC 9110 section 6.5.1). */
static void gw__http_on_header_line(gw__http *http, const char *line, size_t len)
{
    size_t name_len = 0, value_len;
    const char *value;
    while (name_len < len && gw__http_is_token_byte(line[name_len])) name_len++;
    if (name_len == 0 || name_len == len || line[name_len] != ':') {
        gw__http_break(http, GW_REASON_PROTOCOL, "a header line is not \"Name: value\"");
        return;
    }
    if (++http->header_count > GW__HTTP_HEADERS_MAX) {
        gw__http_break(http, GW_REASON_PROTOCOL, "more than 100 header lines");
        return;
    }
    value = line + name_len + 1;
    value_len = len - name_len - 1;
    gw__http_trim(&value, &value_len);
    if (http->part == GW__HTTP_AT_HEADER)
        gw__http_on_header(http, line, name_len, value, value_len);
}

/* A 1xx is over; what its headers said does not hold for the answer that follows. */
static void gw__http_forget_interim(gw__http *http)
{
    if (++http->interim_count > GW__HTTP_INTERIMS_MAX) {
        gw__http_break(http, GW_REASON_PROTOCOL, "more than 8 interim answers");
        return;
    }
    http->part = GW__HTTP_AT_STATUS;
    http->status = 0;
    http->has_length = http->has_chunked = http->has_retry_after = http->connection_upgrade = 0;
    http->retry_after_ms = 0;
    http->upgrade[0] = http->accept[0] = http->location[0] = 0;
    http->extensions[0] = http->protocol[0] = 0;
}

/* The empty line: how does the body end? RFC 9112 section 6.3, in its order. */
static void gw__http_on_head_end(gw__http *http)
{
    int is_2xx = http->status >= 200 && http->status < 300;
    if (http->has_length && http->has_chunked)
        gw__http_break(http, GW_REASON_PROTOCOL, "both Content-Length and Transfer-Encoding");
    else if (http->status == 101 && http->asked != GW__HTTP_UPGRADE)
        gw__http_break(http, GW_REASON_PROTOCOL, "it switches protocols, which nobody asked for");
    else if (http->status == 101 || (http->asked == GW__HTTP_CONNECT && is_2xx))
        http->part = GW__HTTP_COMPLETE;
    else if (http->status < 200)
        gw__http_forget_interim(http);
    else if (http->status == 204 || http->status == 304 || (http->has_length && http->length == 0))
        http->part = GW__HTTP_COMPLETE;
    else
        http->part = http->has_chunked ? GW__HTTP_AT_CHUNK_SIZE
                   : http->has_length ? GW__HTTP_IN_LENGTH : GW__HTTP_UNTIL_END;
    http->body_left = http->length;
}

/* Hexadecimal digits, then nothing or ";extensions", which mean nothing to us (RFC 9112 section
 * 7.1). */
static void gw__http_on_chunk_size(gw__http *http, const char *line, size_t len)
{
    uint64_t size = 0;
    size_t at;
    for (at = 0; at < len; at++) {
        char low = (char)(line[at] | 0x20);
        if (gw__http_is_digit(line[at])) size = size << 4 | (uint64_t)(line[at] - '0');
        else if (low >= 'a' && low <= 'f') size = size << 4 | (uint64_t)(low - 'a' + 10);
        else break;
        if (size > GW__HTTP_ANSWER_MAX) {
            gw__http_break(http, GW_REASON_PROTOCOL, "a chunk is larger than 1 MiB");
            return;
        }
    }
    if (at < len) {
        const char *rest = line + at;
        size_t rest_len = len - at;
        gw__http_trim(&rest, &rest_len);
        if (rest_len == 0 || rest[0] != ';') at = 0;
    }
    if (at == 0) {
        gw__http_break(http, GW_REASON_PROTOCOL, "a chunk does not begin with its size");
        return;
    }
    http->body_left = size;
    http->part = size > 0 ? GW__HTTP_IN_CHUNK : GW__HTTP_AT_TRAILER;
}

/* A bare CR or LF, a NUL, an escape: whoever reads them differently sees another answer (RFC 9112
 * section 2.2). */
static int gw__http_line_is_clean(const uint8_t *line, size_t len)
{
    size_t at;
    if (len < 2 || line[len - 2] != '\r') return 0;
    for (at = 0; at < len - 2; at++)
        if ((line[at] < 0x20 && line[at] != '\t') || line[at] == 0x7f) return 0;
    return 1;
}

static void gw__http_on_line(gw__http *http, const char *line, size_t len)
{
    switch (http->part) {
    case GW__HTTP_AT_STATUS:     gw__http_on_status(http, line, len); break;
    case GW__HTTP_AT_CHUNK_SIZE: gw__http_on_chunk_size(http, line, len); break;
    case GW__HTTP_AT_HEADER:
        if (len == 0) gw__http_on_head_end(http);
        else gw__http_on_header_line(http, line, len);
        break;
    case GW__HTTP_AT_TRAILER:
        if (len == 0) http->part = GW__HTTP_COMPLETE;
        else gw__http_on_header_line(http, line, len);
        break;
    case GW__HTTP_AT_CHUNK_END:
        http->part = GW__HTTP_AT_CHUNK_SIZE;
        if (len > 0) gw__http_break(http, GW_REASON_PROTOCOL, "a chunk is longer than its size");
        break;
    case GW__HTTP_IN_LENGTH: case GW__HTTP_IN_CHUNK: case GW__HTTP_UNTIL_END:
    case GW__HTTP_COMPLETE: case GW__HTTP_FAILED: break;        /* no lines there */
    }
}

/* What cannot become "HTTP/1." is told at once: a TLS or SSH port has no line end for us to wait
 * for. */
static int gw__http_may_be_http(gw__http *http)
{
    const uint8_t *line = gw__buf_data(&http->line);
    size_t len = gw__buf_len(&http->line);
    char shown[48];
    if (http->part != GW__HTTP_AT_STATUS) return 1;
    if (memcmp(line, "HTTP/1.", len < 7 ? len : 7) == 0) return 1;
    gw__text_printable(shown, sizeof shown, line, len < 40 ? len : 40);
    http->part = GW__HTTP_FAILED;
    gw__fault_set(&http->fault, GW_REASON_PROTOCOL, 0,
        "HTTP: what answers does not speak HTTP/1; it begins with \"%s\"; "
        "check host, port and scheme", shown);
    return 0;
}

/* Trailers are counted with the head. Lines around chunks are not: the whole answer bounds them. */
static int gw__http_in_head(const gw__http *http)
{
    return http->part != GW__HTTP_AT_CHUNK_SIZE && http->part != GW__HTTP_AT_CHUNK_END;
}

static void gw__http_end_line(gw__http *http)
{
    const uint8_t *line = gw__buf_data(&http->line);
    size_t len = gw__buf_len(&http->line);
    if (gw__http_line_is_clean(line, len))
        gw__http_on_line(http, (const char *)line, len - 2);
    else
        gw__http_break(http, GW_REASON_PROTOCOL,
                       "a line with a control byte in it, or without CR LF at its end");
    gw__buf_clear(&http->line);
}

static size_t gw__http_take_line(gw__http *http, const uint8_t *bytes, size_t len)
{
    const uint8_t *end = (const uint8_t *)memchr(bytes, '\n', len);
    size_t taken = end ? (size_t)(end - bytes) + 1 : len;
    if (gw__http_in_head(http)) http->head_bytes += taken;
    if (gw__buf_len(&http->line) + taken > GW__HTTP_LINE_MAX)
        gw__http_break(http, GW_REASON_PROTOCOL, "a line of more than 8 KiB");
    else if (http->head_bytes > GW__HTTP_HEAD_MAX)
        gw__http_break(http, GW_REASON_PROTOCOL, "more than 32 KiB of headers");
    else if (!gw__buf_append(&http->line, bytes, taken))
        gw__http_break(http, GW_REASON_MEMORY, "no memory for a line of the answer");
    else if (gw__http_may_be_http(http) && end)
        gw__http_end_line(http);
    return taken;
}

/* -- body -- */

static void gw__http_keep_body(gw__http *http, const uint8_t *bytes, size_t len)
{
    size_t room = http->body_max - gw__buf_len(&http->body);
    size_t kept = len < room ? len : room;
    if (kept < len && !gw__http_is_refusal(http)) {
        gw__http_break(http, GW_REASON_PROTOCOL, "the body is larger than this client takes");
        return;
    }
    if (!gw__buf_append(&http->body, bytes, kept))
        gw__http_break(http, GW_REASON_MEMORY, "no memory for the body");
    else if (kept < len)
        http->part = GW__HTTP_COMPLETE;     /* nobody waits for the rest of an error page */
}

static size_t gw__http_take_body(gw__http *http, const uint8_t *bytes, size_t len)
{
    size_t taken = len;
    if (http->part == GW__HTTP_UNTIL_END) {
        gw__http_keep_body(http, bytes, len);
        return len;
    }
    if (taken > http->body_left) taken = (size_t)http->body_left;
    http->body_left -= taken;
    gw__http_keep_body(http, bytes, taken);
    if (http->body_left > 0) return taken;
    if (http->part == GW__HTTP_IN_CHUNK) http->part = GW__HTTP_AT_CHUNK_END;
    if (http->part == GW__HTTP_IN_LENGTH) http->part = GW__HTTP_COMPLETE;
    return taken;
}

/* -- the whole answer -- */

static int gw__http_in_body(const gw__http *http)
{
    return http->part == GW__HTTP_IN_LENGTH || http->part == GW__HTTP_IN_CHUNK
        || http->part == GW__HTTP_UNTIL_END;
}

static gw__http_found gw__http_look(const gw__http *http)
{
    if (http->part == GW__HTTP_COMPLETE) return GW__HTTP_DONE;
    return http->part == GW__HTTP_FAILED ? GW__HTTP_BROKEN : GW__HTTP_NEED_MORE;
}

/* Takes `used` bytes: all of them while it needs more; none behind the end of the answer. */
static gw__http_found gw__http_push(gw__http *http, const uint8_t *bytes, size_t len, size_t *used)
{
    for (*used = 0; *used < len && gw__http_look(http) == GW__HTTP_NEED_MORE;) {
        const uint8_t *rest = bytes + *used;
        size_t rest_len = len - *used;
        size_t taken = gw__http_in_body(http) ? gw__http_take_body(http, rest, rest_len)
                                              : gw__http_take_line(http, rest, rest_len);
        *used += taken;
        http->answer_bytes += taken;
        if (http->answer_bytes > GW__HTTP_ANSWER_MAX && gw__http_look(http) == GW__HTTP_NEED_MORE)
            gw__http_break(http, GW_REASON_PROTOCOL, "an answer of more than 1 MiB");
    }
    return gw__http_look(http);
}

/* The stream has ended. A refusal whose head is there is DONE: its status counts more than the rest
 * of its page. */
static gw__http_found gw__http_end(gw__http *http)
{
    if (gw__http_look(http) != GW__HTTP_NEED_MORE) return gw__http_look(http);
    if (http->part == GW__HTTP_UNTIL_END
        || (http->part > GW__HTTP_AT_HEADER && gw__http_is_refusal(http)))
        http->part = GW__HTTP_COMPLETE;
    else if (http->answer_bytes == 0)
        gw__http_break(http, GW_REASON_LOST, "the connection was closed without an answer");
    else
        gw__http_break(http, GW_REASON_LOST,
                       "the connection was closed in the middle of the answer");
    return gw__http_look(http);
}

/* -- what an unwanted status means to a person -- */

static const char *gw__http_advice(const gw__http *http)
{
    switch (http->status) {
    case 200: return "a web server is there, but no Gateway; check the address";
    case 400: return "the request was not understood; is the API version still served?";
    case 401: return "the bot token is missing, wrong or was reset";
    case 403: return "blocked; check the address, and whether this network or IP is banned";
    case 404: return "there is nothing at this path; check the address";
    case 407: return "the proxy wants a user name and a password";
    case 429: return "too many requests; it must wait";
    default:  break;
    }
    if (http->status >= 500) return "trouble on the other side";
    if (http->status >= 300 && http->status < 400)
        return "redirects are not followed; use the address that it names";
    return "check the address, and what stands in between";
}

/* Fills the fault for a complete answer whose status is not the one that was wanted. */
static void gw__http_explain(const gw__http *http, gw__fault *fault)
{
    char piece[161];
    size_t len = gw__buf_len(&http->body);
    int redirect = http->location[0] && http->status >= 300 && http->status < 400;
    int wanted = http->asked == GW__HTTP_UPGRADE ? 101 : 200;
    gw__text_printable(piece, sizeof piece, http->body.bytes, len < 160 ? len : 160);
    gw__fault_set(fault, GW_REASON_HTTP, http->status,
        "HTTP: status %d instead of %d: %s%s%s%s%s%s%s", (int)http->status, wanted,
        gw__http_advice(http),
        redirect ? "; to \"" : "", redirect ? http->location : "", redirect ? "\"" : "",
        len ? "; it says \"" : "", piece, len ? "\"" : "");
}

/* -- the upgrade: RFC 6455 section 4.1 and 4.2.2 -- */

/* base64(SHA-1(key + GUID)): proves that a WebSocket server answers, and not a cache. It is no
 * secret and guards none. */
static void gw__http_accept_for(const uint8_t nonce[16], char accept[32])
{
    char key[32];
    uint8_t hash[br_sha1_SIZE];
    br_sha1_context sha1;
    br_sha1_init(&sha1);
    br_sha1_update(&sha1, key, gw__text_base64(key, sizeof key, nonce, 16));
    br_sha1_update(&sha1, "258EAFA5-E914-47DA-95CA-C5AB0DC85B11", 36);
    br_sha1_out(&sha1, hash);
    gw__text_base64(accept, 32, hash, sizeof hash);
}

/* What is wrong with a 101; NULL: nothing. */
static const char *gw__http_upgrade_fault(const gw__http *http, const uint8_t nonce[16])
{
    char accept[32];
    gw__http_accept_for(nonce, accept);
    if (!gw__text_same_nocase(http->upgrade, strlen(http->upgrade), "websocket"))
        return "without \"Upgrade: websocket\"";
    if (!http->connection_upgrade)
        return "without \"Connection: Upgrade\"";
    if (strcmp(http->accept, accept) != 0)
        return "with a Sec-WebSocket-Accept that does not answer our key; "
               "a proxy or a cache in between seems to have answered";
    if (http->extensions[0])
        return "with an extension that was not offered (Sec-WebSocket-Extensions)";
    if (http->protocol[0])
        return "with a subprotocol that was not offered (Sec-WebSocket-Protocol)";
    return NULL;
}

static int gw__http_check_upgrade(const gw__http *http, const uint8_t nonce[16], gw__fault *fault)
{
    const char *why;
    if (http->status != 101) {
        gw__http_explain(http, fault);
        return 0;
    }
    why = gw__http_upgrade_fault(http, nonce);
    if (why) gw__fault_set(fault, GW_REASON_HTTP, 101, "HTTP: status 101 %s", why);
    return !why;
}

/* -- requests -- */

/* A token with a line end in it would write headers of its own. */
static int gw__http_is_visible(const char *text)
{
    while (*text > 0x20 && *text < 0x7f) text++;
    return *text == 0;
}

/* Appends "GET target", the headers that all requests have, and `headers`; whole or, with 0, not at
 * all. */
static int gw__http_write_request(gw__buf *out, const gw__url *url, const char *target,
                                  const char *headers)
{
    char text[GW__HTTP_REQUEST_MAX], host[GW__HOST_MAX + 16];
    size_t len;
    int written;
    gw__url_write_host(url, host, sizeof host);
    len = gw__text_format(text, sizeof text, "GET %s HTTP/1.1\r\nHost: %s\r\n"
                          "User-Agent: " GW__USER_AGENT "\r\n%s\r\n", target, host, headers);
    written = gw__http_is_visible(target) && len + 1 < sizeof text
           && gw__buf_append(out, text, len);
    gw__mem_wipe(text, sizeof text);        /* the token may be in it */
    return written;
}

static int gw__http_write_get(gw__buf *out, const gw__url *url, const char *target,
                              const char *token)
{
    char headers[GW__HTTP_REQUEST_MAX];
    size_t len;
    int written;
    if (token && !gw__http_is_visible(token)) return 0;
    len = gw__text_format(headers, sizeof headers,
        "%s%s%sAccept: application/json\r\nConnection: close\r\n",
        token ? "Authorization: Bot " : "", token ? token : "", token ? "\r\n" : "");
    written = len + 1 < sizeof headers && gw__http_write_request(out, url, target, headers);
    gw__mem_wipe(headers, sizeof headers);
    return written;
}

/* nonce: fresh random bytes for each (RFC 6455 section 4.1). No extension is offered: ours is an
 * inflater, not a deflater. */
static int gw__http_write_upgrade(gw__buf *out, const gw__url *url, const char *target,
                                  const uint8_t nonce[16])
{
    char headers[160], key[32];
    gw__text_base64(key, sizeof key, nonce, 16);
    gw__text_format(headers, sizeof headers,
        "Upgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n", key);
    return gw__http_write_request(out, url, target, headers);
}
/* ==========================================================================
 * >> room: link -- a URL to a stream of plain bytes: resolve, connect, secure.
 *    Knows:  the order of those steps, read-ahead, what waits to be sent, deadlines of the way.
 *    Not:    HTTP, WebSocket, Discord. Also used alone, by /gateway/bot and the probe programs.
 * ========================================================================== */

#define GW__LINK_STATES(X)                                                                      \
    X(ENDED,      0,     "")     /* link->fault says why */                                     \
    X(RESOLVING,  15000, "no answer from DNS")                                                  \
    X(CONNECTING, 30000, "no answer to the TCP connect: a firewall?")                           \
    X(SECURING,   20000, "the TLS handshake stopped: the peer is silent")                       \
    X(OPEN,       0,     "")     /* guarded by who uses the link */

typedef enum gw__link_state {
#define GW__LINK_STATE(name, timeout_ms, text) GW__LINK_##name,
    GW__LINK_STATES(GW__LINK_STATE)
#undef GW__LINK_STATE
    GW__LINK_STATE_COUNT
} gw__link_state;

#define GW__READ_AHEAD_BYTES 32768u     /* one recv() brings many records */
#define GW__READ_AHEAD_SMALL 1024u      /* ... out of a fixed block */
#define GW__DIRECT_MIN 4096u            /* a copy of so much costs more than a system call */
#define GW__RECORD_HEADER 5u
#define GW__LINK_OUT_MAX (64u * 1024u * 1024u)
#define GW__HANDSHAKE_SLICE 512u        /* so that one step holds one public-key operation or two */

typedef struct gw__link {
    gw__net *net;
    gw__link_state state;
    uint64_t deadline_ms;
    gw__url url;
    gw__dns dns;
    gw__tcp tcp;
    gw__tls *tls;
    gw__buf wire;  /* received, not yet fed to TLS; without TLS the plain bytes themselves */
    gw__buf out;                /* plain bytes that wait to be sent */
    gw__fault fault;
    uint32_t readable;          /* 1: a read may bring something; 0: it would block */
    uint32_t is_direct;         /* the last recv() went right into TLS */
    uint32_t peer_ended;        /* the peer sends no more */
    /* it takes no more; what it sent before may say why, so that is read */
    uint32_t write_failed;
    uint32_t full;              /* the socket took nothing the last time */
    uint32_t held;              /* not to be read for now */
    /* bytes that the last peek took in, whether it gave any out or not */
    size_t moved;
    uint64_t bytes_in, bytes_out;
} gw__link;

typedef struct gw__trust_clock {    /* what verification needs to know of time */
    uint64_t unix_time;
    uint32_t is_floor;              /* the time is only known to be at least this */
} gw__trust_clock;

static uint32_t gw__link_timeout_ms(gw__link_state state)
{
#define GW__LINK_STATE(name, timeout_ms, text) timeout_ms,
    static const uint32_t timeouts[] = { GW__LINK_STATES(GW__LINK_STATE) 0 };
#undef GW__LINK_STATE
    return timeouts[state];
}

static void gw__link_enter(gw__link *link, gw__link_state next, uint64_t now_ms)
{
    uint32_t timeout_ms = gw__link_timeout_ms(next);
    link->state = next;
    link->deadline_ms = timeout_ms ? now_ms + timeout_ms : GW__NEVER;
}

static void gw__link_init(gw__link *link, gw__net *net)
{
    memset(link, 0, sizeof *link);
    link->net = net;
    gw__link_enter(link, GW__LINK_ENDED, 0);
    gw__tcp_init(&link->tcp);
    gw__buf_init(&link->wire, net->mem, GW__READ_AHEAD_BYTES);
    gw__buf_init(&link->out, net->mem, GW__LINK_OUT_MAX);
    link->out.is_secret = 1;
}

/* It may have held the token. */
static void gw__link_free_out(gw__link *link)
{
    if (link->out.bytes) gw__mem_wipe(link->out.bytes, link->out.cap);
    gw__buf_free(&link->out);
}

#define GW__OUT_KEPT 256u       /* what a heartbeat needs, and more */

/* All has left: an idle connection keeps so little that its next heartbeat finds memory whatever
 * there is then. */
static void gw__link_rest_out(gw__link *link)
{
    if (link->out.cap == GW__OUT_KEPT) {
        gw__mem_wipe(link->out.bytes, link->out.cap);
        return;
    }
    gw__link_free_out(link);
    if (!link->net->mem->block && link->state == GW__LINK_OPEN)
        gw__buf_reserve(&link->out, GW__OUT_KEPT);
}

/* Frees all that the connection held; what was not sent is lost. */
static void gw__link_drop(gw__link *link)
{
    gw__dns_cancel(&link->dns);
    gw__tcp_close(&link->tcp, link->net);
    gw__tls_free(link->tls);
    link->tls = NULL;
    gw__buf_free(&link->wire);
    gw__link_free_out(link);
    link->readable = 0;
    gw__link_enter(link, GW__LINK_ENDED, 0);
}

static void gw__link_open(gw__link *link, const gw__url *url, uint64_t tag, uint64_t now_ms)
{
    gw__link_drop(link);
    memset(&link->fault, 0, sizeof link->fault);
    link->url = *url;
    link->peer_ended = link->write_failed = link->full = link->held = link->is_direct = 0;
    gw__tcp_begin(&link->tcp, tag);
    gw__dns_begin(&link->dns);
    gw__link_enter(link, GW__LINK_RESOLVING, now_ms);
}

static gw__link_state gw__link_fail(gw__link *link, uint64_t now_ms)
{
    gw__link_enter(link, GW__LINK_ENDED, now_ms);
    return link->state;
}

/* ---- bytes ---- */

/* Sends what waits; stops where the socket is full. 0: the connection is gone. */
static int gw__link_write_wire(gw__link *link, const uint8_t *bytes, size_t len, size_t *sent)
{
    int32_t put = gw__tcp_write(&link->tcp, link->net, bytes, len);
    *sent = put > 0 ? (size_t)put : 0;
    link->bytes_out += *sent;
    if (put >= 0) return 1;
    link->write_failed = link->readable = 1;
    gw__fault_set(&link->fault, GW_REASON_LOST, 0, "connection to %s lost while sending: %s",
                  link->url.host,
                  gw__sys_error_text(put == GW__IO_FAILED ? link->tcp.error : EPIPE));
    return 0;
}

/* Moves plain bytes into TLS records as far as the engine takes them. */
static void gw__link_encrypt(gw__link *link)
{
    size_t cap, part;
    uint8_t *room;
    while (gw__buf_len(&link->out) && (room = gw__tls_plain_out(link->tls, &cap)) != NULL) {
        part = GW__MIN(cap, gw__buf_len(&link->out));
        memcpy(room, gw__buf_data(&link->out), part);
        gw__buf_consume(&link->out, part);
        gw__tls_plain_out_done(link->tls, part);
    }
}

static int gw__link_flush(gw__link *link)
{
    size_t len, sent;
    uint8_t *bytes;
    if (link->state != GW__LINK_SECURING && link->state != GW__LINK_OPEN) return 1;
    link->full = 0;
    if (link->write_failed) return 0;
    for (;;) {
        if (link->tls) {
            if (link->state == GW__LINK_OPEN) gw__link_encrypt(link);
            bytes = gw__tls_wire_out(link->tls, &len);
        } else {
            bytes = gw__buf_data(&link->out);
            len = gw__buf_len(&link->out);
        }
        if (!bytes || len == 0) break;
        if (!gw__link_write_wire(link, bytes, len, &sent)) return 0;
        /* the poller tells when there is room */
        if (sent == 0) { link->full = 1; return 1; }
        if (link->tls) gw__tls_wire_out_done(link->tls, sent);
        else gw__buf_consume(&link->out, sent);
    }
    if (gw__buf_len(&link->out) == 0) gw__link_rest_out(link);
    return 1;
}

static int gw__link_wants_write(gw__link *link)
{
    size_t len;
    if (link->state == GW__LINK_CONNECTING) return 1;
    if (link->state != GW__LINK_SECURING && link->state != GW__LINK_OPEN) return 0;
    if (link->write_failed) return 0;
    if (gw__buf_len(&link->out) && link->state == GW__LINK_OPEN) return 1;
    return link->tls && gw__tls_wire_out(link->tls, &len) != NULL;
}

/* TLS takes no bytes and has none to give. It goes on once its own answer, such as an alert, has
 * left; where it has none to send it never does: BearSSL reads one HelloRequest of a record, and no
 * more. */
static int gw__link_is_choked(gw__link *link)
{
    size_t len;
    return link->tls && !gw__tls_wire_in(link->tls, &len) && !gw__tls_plain_in(link->tls, &len);
}

static int gw__link_waits_for_room(gw__link *link)
{
    return link->full && gw__link_is_choked(link);
}

static size_t gw__link_ahead(const gw__link *link)
{
    return link->net->mem->block ? GW__READ_AHEAD_SMALL : GW__READ_AHEAD_BYTES;
}

/* All was read that the poller told of: the buffers for it go back. */
static void gw__link_rest(gw__link *link)
{
    if (link->readable || gw__buf_len(&link->wire)) return;
    gw__buf_free(&link->wire);
    if (link->tls) gw__tls_rest(link->tls);
}

/* Where the next recv() goes: a long rest of a record right to where TLS wants it, in as many pieces
 * as it comes, then the header of the next one alone, so that its rest can go there too; all else
 * into the read-ahead. */
static uint8_t *gw__link_room(gw__link *link, size_t *cap)
{
    uint32_t was_direct = link->is_direct;
    uint8_t *room = NULL;
    if (link->tls && link->state == GW__LINK_OPEN) room = gw__tls_wire_in(link->tls, cap);
    link->is_direct = room && *cap >= (was_direct ? GW__RECORD_HEADER + 1 : GW__DIRECT_MIN);
    if (link->is_direct) return room;
    *cap = was_direct ? GW__RECORD_HEADER : gw__link_ahead(link);
    return link->wire.bytes + link->wire.end;
}

/* One recv(). One that does not fill its room leaves nothing behind, so far as a socket goes. */
static void gw__link_receive(gw__link *link)
{
    size_t ahead = gw__link_ahead(link), cap;
    uint8_t *room;
    int32_t got;
    if (!link->readable || link->peer_ended) return;
    if (gw__buf_len(&link->wire)) return;       /* first use what is there */
    if (!gw__buf_reserve(&link->wire, ahead) || (link->tls && !gw__tls_wake(link->tls))) {
        gw__fault_set(&link->fault, GW_REASON_MEMORY, 0, "no memory for %u bytes to receive into",
                      (unsigned)ahead);
        link->peer_ended = 1;
        return;
    }
    room = gw__link_room(link, &cap);
    got = gw__tcp_read(&link->tcp, link->net, room, cap);
    if (got > 0) {
        if (link->is_direct) {
            gw__tls_wire_in_done(link->tls, (size_t)got);
            link->moved += (size_t)got;
        } else {
            link->wire.end += (size_t)got;
        }
        link->bytes_in += (uint64_t)got;
        if ((size_t)got < cap && !link->tcp.stream) link->readable = 0;
        return;
    }
    if (got == GW__IO_AGAIN) {
        link->readable = 0;
        link->peer_ended = link->write_failed;  /* it said nothing more */
        gw__link_rest(link);
        return;
    }
    link->peer_ended = 1;
    if (got == GW__IO_FAILED)
        gw__fault_set(&link->fault, GW_REASON_LOST, 0, "connection to %s lost: %s", link->url.host,
                      gw__sys_error_text(link->tcp.error));
}

/* Feeds received bytes to TLS, at most `most`; it takes none while plain bytes wait to be read. */
static void gw__link_decrypt(gw__link *link, size_t most)
{
    size_t cap, part;
    uint8_t *room;
    while (most && gw__buf_len(&link->wire) && (room = gw__tls_wire_in(link->tls, &cap)) != NULL) {
        part = GW__MIN(GW__MIN(cap, most), gw__buf_len(&link->wire));
        memcpy(room, gw__buf_data(&link->wire), part);
        gw__buf_consume(&link->wire, part);
        gw__tls_wire_in_done(link->tls, part);
        most -= part;
    }
}

static void gw__link_on_end(gw__link *link, uint64_t now_ms)
{
    if (link->tls && gw__tls_look(link->tls) == GW__TLS_FAILED) {
        const gw__fault *fault = gw__tls_fault(link->tls);
        gw__fault_set(&link->fault, fault->reason, fault->code, "%s", fault->text);
    }
    gw__fault_set(&link->fault, GW_REASON_LOST, 0, "%s closed the connection without a word",
                  link->url.host);
    gw__link_fail(link, now_ms);
}

/* What has come is never read: as if nothing had. */
static void gw__link_give_up(gw__link *link)
{
    gw__fault_set(&link->fault, GW_REASON_TLS_PROTOCOL, 0,
                  "TLS: %s asked for handshakes in the middle of the connection", link->url.host);
    gw__buf_consume(&link->wire, gw__buf_len(&link->wire));
    link->peer_ended = 1;
}

/* Through TLS: one recv() at most, so that records without plaintext hold nobody up. */
static const uint8_t *gw__link_peek_tls(gw__link *link, size_t *len)
{
    const uint8_t *bytes = gw__tls_plain_in(link->tls, len);
    size_t wire_len;
    if (bytes) return bytes;
    gw__link_receive(link);
    wire_len = gw__buf_len(&link->wire);
    gw__link_decrypt(link, SIZE_MAX);
    bytes = gw__tls_plain_in(link->tls, len);
    if (gw__tls_look(link->tls) == GW__TLS_OPEN && gw__link_is_choked(link)) {
        gw__link_flush(link);
        gw__link_decrypt(link, SIZE_MAX);
        bytes = gw__tls_plain_in(link->tls, len);
        if (!link->full && gw__tls_look(link->tls) == GW__TLS_OPEN && gw__link_is_choked(link))
            gw__link_give_up(link);
    }
    link->moved += wire_len - gw__buf_len(&link->wire);
    if (!bytes) gw__link_rest(link);
    return bytes;
}

/* Plain bytes that are there now; NULL: none, or (link->moved) none yet: call it again. They stay
 * where they are until gw__link_take(). */
static const uint8_t *gw__link_peek(gw__link *link, size_t *len, uint64_t now_ms)
{
    const uint8_t *bytes;
    *len = link->moved = 0;
    if (link->state != GW__LINK_OPEN || link->held) return NULL;
    if (!link->tls) {
        gw__link_receive(link);
        *len = gw__buf_len(&link->wire);
        if (*len == 0 && link->peer_ended) gw__link_on_end(link, now_ms);
        return *len ? gw__buf_data(&link->wire) : NULL;
    }
    bytes = gw__link_peek_tls(link, len);
    if (bytes) return bytes;
    if (link->peer_ended && gw__buf_len(&link->wire) == 0) {
        gw__link_flush(link);       /* BearSSL believes a close_notify when it has sent its own */
        gw__tls_wire_end(link->tls);
    }
    if (gw__tls_look(link->tls) != GW__TLS_OPEN) gw__link_on_end(link, now_ms);
    return NULL;
}

static void gw__link_take(gw__link *link, size_t len)
{
    if (link->tls) gw__tls_plain_in_done(link->tls, len);
    else gw__buf_consume(&link->wire, len);
    gw__link_rest(link);
}

/* ---- the way up ---- */
static gw__link_state gw__link_secure(gw__link *link, uint64_t now_ms)
{
    int sent;
    if (link->tls == NULL) {
        gw__link_enter(link, GW__LINK_OPEN, now_ms);
        return link->state;
    }
    if (!gw__link_flush(link)) return gw__link_fail(link, now_ms);
    gw__link_receive(link);
    gw__link_decrypt(link, GW__HANDSHAKE_SLICE);
    gw__link_rest(link);
    if (link->peer_ended && gw__buf_len(&link->wire) == 0) gw__tls_wire_end(link->tls);
    sent = gw__link_flush(link);    /* ours may be the last word: then it is open; or an alert */
    switch (gw__tls_look(link->tls)) {
    case GW__TLS_HANDSHAKE: break;
    case GW__TLS_OPEN: gw__link_enter(link, GW__LINK_OPEN, now_ms); break;
    case GW__TLS_ENDED: case GW__TLS_FAILED:
        gw__link_on_end(link, now_ms);
        break;
    }
    if (link->state != GW__LINK_ENDED && !sent) return gw__link_fail(link, now_ms);
    return link->state;
}

/* Prepares TLS before the first byte, so that no peer waits for us to read certificates. */
static int gw__link_begin_tls(gw__link *link, gw__trust *trust, const gw__trust_clock *clock,
                              const gw__tls_ticket *ticket)
{
    uint8_t seed[32];
    if (!link->url.secure) return 1;
    if (!gw__trust_refresh(trust, &link->fault)) return 0;
    if (trust->warning[0]) gw__log(link->net->logger, GW_LOG_WARN, GW_ALL, "%s", trust->warning);
    if (!gw__net_random(link->net, seed, sizeof seed)) {
        gw__fault_set(&link->fault, GW_REASON_TLS_OTHER, 0,
                      "TLS: neither config.random nor the system gives random bytes");
        return 0;
    }
    link->tls = gw__tls_new(link->net->mem, trust, link->url.host, link->url.port, clock->unix_time,
                            clock->is_floor, seed, ticket, &link->fault);
    gw__mem_wipe(seed, sizeof seed);
    return link->tls != NULL;
}

static gw__link_state gw__link_on_resolving(gw__link *link, uint64_t now_ms)
{
    if (link->net->transport) {
        if (gw__tcp_open_stream(&link->tcp, link->net, link->url.host, link->url.port,
                                &link->fault) == GW__TCP_FAILED)
            return gw__link_fail(link, now_ms);
        gw__link_enter(link, GW__LINK_SECURING, now_ms);
        return link->state;
    }
    switch (gw__dns_look(&link->dns, link->net, link->url.host, now_ms, &link->fault)) {
    case GW__DNS_WAITING: break;
    case GW__DNS_FAILED: return gw__link_fail(link, now_ms);
    case GW__DNS_DONE: gw__link_enter(link, GW__LINK_CONNECTING, now_ms); break;
    }
    return link->state;
}

static gw__link_state gw__link_on_connecting(gw__link *link, uint64_t now_ms)
{
    switch (gw__tcp_dial(&link->tcp, link->net, &link->dns, link->url.host, link->url.port, now_ms,
                         &link->fault)) {
    case GW__TCP_WAITING: break;
    case GW__TCP_FAILED: return gw__link_fail(link, now_ms);
    case GW__TCP_DONE: gw__link_enter(link, GW__LINK_SECURING, now_ms); break;
    }
    return link->state;
}

/* One step on the way to OPEN; each holds little work. */
static gw__link_state gw__link_step(gw__link *link, gw__trust *trust, const gw__trust_clock *clock,
                                    const gw__tls_ticket *ticket, uint64_t now_ms)
{
    switch (link->state) {
    case GW__LINK_RESOLVING:  return gw__link_on_resolving(link, now_ms);
    case GW__LINK_CONNECTING: return gw__link_on_connecting(link, now_ms);
    case GW__LINK_SECURING:
        if (link->url.secure && !link->tls && !gw__link_begin_tls(link, trust, clock, ticket))
            return gw__link_fail(link, now_ms);
        return gw__link_secure(link, now_ms);
    case GW__LINK_OPEN: case GW__LINK_ENDED: case GW__LINK_STATE_COUNT: break;
    }
    return link->state;
}

/* The deadline of the way has passed. */
static void gw__link_expire(gw__link *link, uint64_t now_ms)
{
#define GW__LINK_STATE(name, timeout_ms, text) text,
    static const char *const texts[] = { GW__LINK_STATES(GW__LINK_STATE) "" };
#undef GW__LINK_STATE
    gw__fault_set(&link->fault, GW_REASON_TIMEOUT, 0, "%s port %u: %s (%u s)", link->url.host,
                  (unsigned)link->url.port, texts[link->state],
                  (unsigned)(gw__link_timeout_ms(link->state) / 1000u));
    gw__link_fail(link, now_ms);
}

/* When a step is due even if no socket stirs. */
static uint64_t gw__link_next_ms(const gw__link *link)
{
    uint64_t next_ms = link->deadline_ms;
    if (link->state == GW__LINK_RESOLVING && link->net->resolve && link->dns.ask_again_ms)
        next_ms = GW__MIN(next_ms, link->dns.ask_again_ms);
    if (link->state == GW__LINK_CONNECTING) next_ms = GW__MIN(next_ms, link->tcp.deadline_ms);
    return next_ms;
}

/* 1: a step would do something now, without a word from the poller. */
static int gw__link_has_work(gw__link *link)
{
    size_t len;
    if (link->held || link->state == GW__LINK_ENDED) return 0;
    /* time, the resolver or the poller moves it */
    if (link->state < GW__LINK_SECURING) return 0;
    if (gw__link_waits_for_room(link)) return 0;        /* the poller */
    if (link->readable || link->peer_ended) return 1;
    if (!link->tls) return gw__buf_len(&link->wire) != 0;
    if (gw__tls_plain_in(link->tls, &len) != NULL) return 1;
    return gw__buf_len(&link->wire) && gw__tls_wire_in(link->tls, &len) != NULL;
}

/* 1: all that came has been read, which is less than a buffer full, and is being worked at. */
static int gw__link_is_finishing(const gw__link *link)
{
    return link->wire.bytes && !link->readable && !link->held;
}

/* Tells the poller what to look for; only changes cost a system call. */
static void gw__link_watch(gw__link *link)
{
    uint32_t want = gw__link_wants_write(link) ? GW__WANT_WRITE : 0;
    if (!link->held && !link->peer_ended && link->state != GW__LINK_CONNECTING &&
        !gw__link_waits_for_room(link)) want |= GW__WANT_READ;
    gw__tcp_watch(&link->tcp, link->net, link->state == GW__LINK_ENDED ? 0 : want);
}

/* Says goodbye as far as the socket takes it now, and frees the connection. */
static void gw__link_close(gw__link *link)
{
    if (link->state == GW__LINK_OPEN) {
        gw__link_flush(link);
        if (link->tls) {
            gw__tls_close(link->tls);
            gw__link_flush(link);
        }
    }
    gw__link_drop(link);
}


/* ==========================================================================
 * >> room: ws -- RFC 6455 frames: bytes in, frames out, and back.
 *    Knows:  fin, rsv, opcode, mask, payload length, control-frame rules, UTF-8 of text.
 *    Not:    sockets, TLS, JSON, Discord, the clock. It answers nothing by itself:
 *            a ping or a close is handed up, and the answer is its caller's to write.
 * ========================================================================== */

enum {                                  /* opcodes: RFC 6455 section 11.8 */
    GW__WS_CONTINUATION = 0, GW__WS_TEXT = 1, GW__WS_BINARY = 2,
    GW__WS_CLOSE = 8, GW__WS_PING = 9, GW__WS_PONG = 10
};
enum { GW__WS_CONTROL_MAX = 125 };      /* RFC 6455 section 5.5 */

typedef enum gw__ws_found {
    GW__WS_NEED_MORE, GW__WS_DATA, GW__WS_CONTROL, GW__WS_BROKEN
} gw__ws_found;

typedef enum gw__ws_part {
    GW__WS_IN_HEADER, GW__WS_IN_DATA, GW__WS_IN_CONTROL, GW__WS_ENDED, GW__WS_FAILED
} gw__ws_part;

typedef struct gw__ws_piece {
    uint32_t       opcode;          /* of DATA: its message's, TEXT or BINARY; CLOSE, PING, PONG */
    const uint8_t *bytes;           /* the caller's; a control frame's: ours, until the next call */
    size_t         len;
    uint32_t       begins_message;
    uint32_t       ends_message;    /* then it may be empty */
    uint16_t       close_code;      /* of CLOSE, 0 if it brought none; the bytes are its reason */
} gw__ws_piece;

typedef struct gw__ws {
    gw__ws_part part;               /* where in the stream we are */
    uint8_t     header[10];         /* of the frame in hand; a server's has no mask */
    uint32_t    header_len;
    uint64_t    payload_left;       /* of the frame in hand */
    uint32_t    message_opcode;     /* TEXT or BINARY; 0: no message in hand */
    uint32_t    message_begun;      /* a piece of it was given out */
    uint32_t    message_skipped;
    gw__utf8    utf8;               /* of the text in hand, across pieces and fragments */
    uint8_t     control[GW__WS_CONTROL_MAX];
    uint32_t    control_len;
    uint16_t    close_code;         /* after BROKEN: the code to close with, */
    const char *why;                /* and why */
} gw__ws;

static void gw__ws_begin(gw__ws *ws)
{
    memset(ws, 0, sizeof *ws);
}

/* The rest of the message in hand is being dropped: its UTF-8 matters to nobody. */
static void gw__ws_skip_message(gw__ws *ws)
{
    ws->message_skipped = ws->message_opcode != 0;
}

/* May a close frame carry it? 1004 is reserved; 1005, 1006 and 1015 only name what never was on the
 * wire. RFC 6455 sections 7.4.1 and 7.4.2; 1012 to 1014 by the IANA registry. */
static int gw__ws_close_code_is_valid(uint16_t code)
{
    return (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014)
        || (code >= 3000 && code <= 4999);
}

static gw__ws_found gw__ws_break(gw__ws *ws, uint16_t close_code, const char *why)
{
    ws->part = GW__WS_FAILED;
    ws->close_code = close_code;
    ws->why = why;
    return GW__WS_BROKEN;
}

/* -- the header of a frame: RFC 6455 section 5.2 -- */

static uint32_t gw__ws_opcode(const gw__ws *ws)
{
    return ws->header[0] & 0x0fu;
}

static int gw__ws_is_final(const gw__ws *ws)
{
    return (ws->header[0] & 0x80) != 0;
}

static int gw__ws_is_control(const gw__ws *ws)
{
    return (ws->header[0] & 0x08) != 0;
}

/* How long the header is, as far as its bytes tell by now. */
static uint32_t gw__ws_header_want(const gw__ws *ws)
{
    if (ws->header_len < 2) return 2;
    switch (ws->header[1] & 0x7f) {
    case 126: return 4;
    case 127: return 10;
    default:  return 2;
    }
}

/* What the first two bytes may not say; NULL: nothing to object to. */
static const char *gw__ws_header_fault(const gw__ws *ws)
{
    uint32_t opcode = gw__ws_opcode(ws);
    if (ws->header[0] & 0x70)
        return "a reserved bit is set, but no extension was agreed on (RFC 6455 section 5.2)";
    if (ws->header[1] & 0x80) return "the server masked a frame (RFC 6455 section 5.1)";
    if (gw__ws_is_control(ws)) {
        if (opcode > GW__WS_PONG)
            return "a control opcode that does not exist (RFC 6455 section 5.2)";
        if (!gw__ws_is_final(ws)) return "a control frame in fragments (RFC 6455 section 5.5)";
        if ((ws->header[1] & 0x7f) > GW__WS_CONTROL_MAX)
            return "a control frame of more than 125 bytes (RFC 6455 section 5.5)";
        return NULL;
    }
    if (opcode > GW__WS_BINARY) return "a data opcode that does not exist (RFC 6455 section 5.2)";
    if (opcode == GW__WS_CONTINUATION && !ws->message_opcode)
        return "a continuation of no message (RFC 6455 section 5.4)";
    if (opcode != GW__WS_CONTINUATION && ws->message_opcode)
        return "a message inside a fragmented message (RFC 6455 section 5.4)";
    return NULL;
}

/* The length, in the shortest of its three forms: the RFC allows no other. 0: it is in another. */
static int gw__ws_read_length(gw__ws *ws)
{
    uint64_t length = 0;
    uint32_t i;
    if (ws->header_len == 2) {
        ws->payload_left = ws->header[1] & 0x7f;
        return 1;
    }
    for (i = 2; i < ws->header_len; i++) length = length << 8 | ws->header[i];
    ws->payload_left = length;
    return ws->header_len == 4 ? length > 125 : length > 0xffff && length >> 63 == 0;
}

static void gw__ws_enter_frame(gw__ws *ws)
{
    ws->header_len = 0;
    if (gw__ws_is_control(ws)) {
        ws->part = GW__WS_IN_CONTROL;
        ws->control_len = 0;
        return;
    }
    ws->part = GW__WS_IN_DATA;
    if (gw__ws_opcode(ws) == GW__WS_CONTINUATION) return;
    ws->message_opcode = gw__ws_opcode(ws);
    ws->message_begun = ws->message_skipped = 0;
    memset(&ws->utf8, 0, sizeof ws->utf8);
}

/* Takes header bytes; when they are all there, the part has changed. */
static size_t gw__ws_take_header(gw__ws *ws, const uint8_t *bytes, size_t len)
{
    uint32_t had = ws->header_len, want;
    size_t part = GW__MIN(sizeof ws->header - had, len);
    const char *why;
    if (part) memcpy(ws->header + had, bytes, part);        /* perhaps more than is the header's */
    ws->header_len += (uint32_t)part;
    why = had < 2 && ws->header_len >= 2 ? gw__ws_header_fault(ws) : NULL;
    if (why) {
        gw__ws_break(ws, 1002, why);
        return 2 - had;
    }
    want = gw__ws_header_want(ws);
    if (ws->header_len < want) return part;
    ws->header_len = want;
    if (gw__ws_read_length(ws))
        gw__ws_enter_frame(ws);
    else
        gw__ws_break(ws, 1002, "a length above 2^63 or not in its shortest form "
                               "(RFC 6455 section 5.2)");
    return want - had;
}

/* -- payloads -- */

static gw__ws_found gw__ws_take_data(gw__ws *ws, const uint8_t *bytes, size_t len, size_t *taken,
                                     gw__ws_piece *piece)
{
    int frame_ends = ws->payload_left <= len;
    int message_ends = frame_ends && gw__ws_is_final(ws);
    *taken = frame_ends ? (size_t)ws->payload_left : len;
    ws->payload_left -= *taken;
    if (frame_ends) ws->part = GW__WS_IN_HEADER;
    if (*taken == 0 && !message_ends) return GW__WS_NEED_MORE;  /* an empty fragment says nothing */
    memset(piece, 0, sizeof *piece);
    piece->opcode = ws->message_opcode;
    piece->bytes = bytes;
    piece->len = *taken;
    piece->begins_message = !ws->message_begun;
    piece->ends_message = message_ends ? 1 : 0;
    ws->message_begun = 1;
    if (message_ends) ws->message_opcode = 0;
    return GW__WS_DATA;
}

/* RFC 6455 section 5.5.1: nothing, or a code and a reason in UTF-8. Section 7.1.5: nothing behind
 * it counts. */
static gw__ws_found gw__ws_read_close(gw__ws *ws, gw__ws_piece *piece)
{
    gw__utf8 utf8;
    ws->part = GW__WS_ENDED;
    if (piece->len == 0) return GW__WS_CONTROL;
    if (piece->len == 1)
        return gw__ws_break(ws, 1002, "a close frame with half a code (RFC 6455 section 5.5.1)");
    piece->close_code = (uint16_t)(ws->control[0] << 8 | ws->control[1]);
    piece->bytes += 2;
    piece->len -= 2;
    if (!gw__ws_close_code_is_valid(piece->close_code))
        return gw__ws_break(ws, 1002, "a close code that may not be sent (RFC 6455 section 7.4)");
    memset(&utf8, 0, sizeof utf8);
    if (!gw__utf8_push(&utf8, piece->bytes, piece->len) || !gw__utf8_whole(&utf8))
        return gw__ws_break(ws, 1007, "a close reason that is not UTF-8 (RFC 6455 section 5.5.1)");
    return GW__WS_CONTROL;
}

static gw__ws_found gw__ws_take_control(gw__ws *ws, const uint8_t *bytes, size_t len,
                                        size_t *taken, gw__ws_piece *piece)
{
    *taken = ws->payload_left < len ? (size_t)ws->payload_left : len;
    if (*taken > 0) memcpy(ws->control + ws->control_len, bytes, *taken);
    ws->control_len += (uint32_t)*taken;
    ws->payload_left -= *taken;
    if (ws->payload_left > 0) return GW__WS_NEED_MORE;
    ws->part = GW__WS_IN_HEADER;
    memset(piece, 0, sizeof *piece);
    piece->opcode = gw__ws_opcode(ws);
    piece->bytes = ws->control;
    piece->len = ws->control_len;
    return piece->opcode == GW__WS_CLOSE ? gw__ws_read_close(ws, piece) : GW__WS_CONTROL;
}

static gw__ws_found gw__ws_step(gw__ws *ws, const uint8_t *bytes, size_t len, size_t *taken,
                                gw__ws_piece *piece)
{
    *taken = 0;
    switch (ws->part) {
    case GW__WS_IN_HEADER:  *taken = gw__ws_take_header(ws, bytes, len); break;
    case GW__WS_IN_DATA:    return gw__ws_take_data(ws, bytes, len, taken, piece);
    case GW__WS_IN_CONTROL: return gw__ws_take_control(ws, bytes, len, taken, piece);
    case GW__WS_ENDED:      *taken = len; break;
    case GW__WS_FAILED:     return GW__WS_BROKEN;
    }
    return GW__WS_NEED_MORE;
}

/* Takes `used` bytes and gives at most one thing; call again with the rest until NEED_MORE, by when
 * all bytes are taken. After a CLOSE all that follows is swallowed unread; after BROKEN it answers
 * BROKEN and takes nothing. Text of DATA is as it came: gw__ws_check() has to see each piece of a
 * message that is wanted. */
static gw__ws_found gw__ws_next_unchecked(gw__ws *ws, const uint8_t *bytes, size_t len,
                                          size_t *used, gw__ws_piece *piece)
{
    for (*used = 0;;) {
        gw__ws_part part = ws->part;
        size_t taken;
        gw__ws_found found = gw__ws_step(ws, bytes, len, &taken, piece);
        *used += taken;
        if (found != GW__WS_NEED_MORE || (taken == 0 && ws->part == part)) return found;
        bytes += taken;
        len -= taken;
    }
}

/* DATA or BROKEN. Text is checked as it arrives, so that a bad byte at the front of 64 MiB is not
 * waited for: section 8.1. Who has read it may know that it is ASCII. */
static gw__ws_found gw__ws_check(gw__ws *ws, const gw__ws_piece *piece, int is_ascii)
{
    if (piece->opcode != GW__WS_TEXT || ws->message_skipped) return GW__WS_DATA;
    if (is_ascii && gw__utf8_whole(&ws->utf8)) return GW__WS_DATA;
    if (gw__utf8_push(&ws->utf8, piece->bytes, piece->len) &&
        (!piece->ends_message || gw__utf8_whole(&ws->utf8))) return GW__WS_DATA;
    return gw__ws_break(ws, 1007, "text that is not UTF-8 (RFC 6455 section 8.1)");
}

/* The same, checked. */
static gw__ws_found gw__ws_next(gw__ws *ws, const uint8_t *bytes, size_t len, size_t *used,
                                gw__ws_piece *piece)
{
    gw__ws_found found = gw__ws_next_unchecked(ws, bytes, len, used, piece);
    return found == GW__WS_DATA ? gw__ws_check(ws, piece, 0) : found;
}

/* -- the way out -- */

/* RFC 6455 section 5.3, eight bytes at a time. The key is laid out in memory as the payload is, so
 * byte order does not matter. */
static void gw__ws_mask(uint8_t *out, const uint8_t *bytes, size_t len, const uint8_t mask[4])
{
    uint64_t key, word;
    size_t at = 0;
    memcpy(&key, mask, 4);
    memcpy((uint8_t *)&key + 4, mask, 4);
    for (; len - at >= sizeof word; at += sizeof word) {
        memcpy(&word, bytes + at, sizeof word);
        word ^= key;
        memcpy(out + at, &word, sizeof word);
    }
    for (; at < len; at++) out[at] = (uint8_t)(bytes[at] ^ mask[at & 3]);
}

/* Bytes of the header in front of `len` bytes: fin set, masked, the length in its shortest form. */
static size_t gw__ws_write_header(uint8_t header[14], uint32_t opcode, uint64_t len,
                                  const uint8_t mask[4])
{
    size_t at = 2;
    int shift;
    header[0] = (uint8_t)(0x80 | opcode);
    header[1] = (uint8_t)(0x80 | len);
    if (len > 125) {
        header[1] = len > 0xffff ? 0x80 | 127 : 0x80 | 126;
        for (shift = len > 0xffff ? 56 : 8; shift >= 0; shift -= 8)
            header[at++] = (uint8_t)(len >> shift);
    }
    memcpy(header + at, mask, 4);
    return at + 4;
}

/* One whole masked frame. mask: fresh random bytes for each (RFC 6455 section 10.3). 0: no room, or
 * no such control frame; then nothing was written. */
static int gw__ws_write(gw__buf *out, uint32_t opcode, const void *payload, size_t len,
                        const uint8_t mask[4])
{
    uint8_t header[14];
    size_t header_len;
    if (opcode >= GW__WS_CLOSE && len > GW__WS_CONTROL_MAX) return 0;
    header_len = gw__ws_write_header(header, opcode, len, mask);
    if (len > SIZE_MAX - header_len || !gw__buf_reserve(out, header_len + len)) return 0;
    gw__buf_append(out, header, header_len);
    gw__ws_mask(out->bytes + out->end, (const uint8_t *)payload, len, mask);
    out->end += len;
    return 1;
}

/* code 0: an empty close frame. reason: NULL for none; cut to what fits, between characters. */
static int gw__ws_write_close(gw__buf *out, uint16_t code, const char *reason,
                              const uint8_t mask[4])
{
    uint8_t payload[GW__WS_CONTROL_MAX + 1];        /* and the 0 behind the text */
    size_t reason_len;
    if (code == 0) return gw__ws_write(out, GW__WS_CLOSE, NULL, 0, mask);
    payload[0] = (uint8_t)(code >> 8);
    payload[1] = (uint8_t)(code & 255);
    reason_len = gw__text_format((char *)payload + 2, sizeof payload - 2, "%s",
                                 reason ? reason : "");
    return gw__ws_write(out, GW__WS_CLOSE, payload, 2 + reason_len, mask);
}
/* ==========================================================================
 * >> room: json -- the envelope as it streams past, look-ups by path, text in and out.
 *    Knows:  RFC 8259; the keys op, s, t, d; jsmn's tokens.
 *    Not:    what an opcode or an event means, WebSocket, the clock.
 * ========================================================================== */

/* ---- jsmn, privately ----
 * A program may use jsmn itself, before or after this header and with switches of its own. So each
 * of its names becomes one of ours, and each macro of the program is as it was when we are done
 * (pop_macro of a name that was not defined leaves it undefined). */
#ifndef GW_JSMN_HEADER
#define GW_JSMN_HEADER <jsmn.h>
#endif
#pragma push_macro("JSMN_H")
#pragma push_macro("JSMN_API")
#pragma push_macro("JSMN_STATIC")
#pragma push_macro("JSMN_HEADER")
#pragma push_macro("JSMN_STRICT")
#pragma push_macro("JSMN_PARENT_LINKS")
#undef JSMN_H
#undef JSMN_API
#undef JSMN_STATIC
#undef JSMN_HEADER
#undef JSMN_STRICT
#undef JSMN_PARENT_LINKS
#define JSMN_STATIC
#define JSMN_STRICT
#define JSMN_PARENT_LINKS               /* without them jsmn takes quadratic time */
#define jsmntype_t           gw__jsmn_type
#define jsmntok_t            gw__jsmn_token
#define jsmnerr              gw__jsmn_error
#define jsmn_parser          gw__jsmn_parser
#define jsmn_init            gw__jsmn_init
#define jsmn_parse           gw__jsmn_parse
#define jsmn_alloc_token     gw__jsmn_alloc_token
#define jsmn_fill_token      gw__jsmn_fill_token
#define jsmn_parse_primitive gw__jsmn_parse_primitive
#define jsmn_parse_string    gw__jsmn_parse_string
#define JSMN_UNDEFINED       GW__JSMN_UNDEFINED
#define JSMN_OBJECT          GW__JSMN_OBJECT
#define JSMN_ARRAY           GW__JSMN_ARRAY
#define JSMN_STRING          GW__JSMN_STRING
#define JSMN_PRIMITIVE       GW__JSMN_PRIMITIVE
#define JSMN_ERROR_NOMEM     GW__JSMN_ERROR_NOMEM
#define JSMN_ERROR_INVAL     GW__JSMN_ERROR_INVAL
#define JSMN_ERROR_PART      GW__JSMN_ERROR_PART
#if defined __GNUC__
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#pragma GCC diagnostic ignored "-Wsign-compare"
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wunused-parameter"
#endif
#include GW_JSMN_HEADER
#if defined __GNUC__
#pragma GCC diagnostic pop
#endif
#undef jsmntype_t
#undef jsmntok_t
#undef jsmnerr
#undef jsmn_parser
#undef jsmn_init
#undef jsmn_parse
#undef jsmn_alloc_token
#undef jsmn_fill_token
#undef jsmn_parse_primitive
#undef jsmn_parse_string
#undef JSMN_UNDEFINED
#undef JSMN_OBJECT
#undef JSMN_ARRAY
#undef JSMN_STRING
#undef JSMN_PRIMITIVE
#undef JSMN_ERROR_NOMEM
#undef JSMN_ERROR_INVAL
#undef JSMN_ERROR_PART
#undef JSMN_H
#undef JSMN_API
#undef JSMN_STATIC
#undef JSMN_STRICT
#undef JSMN_PARENT_LINKS
#pragma pop_macro("JSMN_PARENT_LINKS")
#pragma pop_macro("JSMN_STRICT")
#pragma pop_macro("JSMN_HEADER")
#pragma pop_macro("JSMN_STATIC")
#pragma pop_macro("JSMN_API")
#pragma pop_macro("JSMN_H")

/* ---- bytes ---- */
static int gw__json_is_space(char byte)
{
    return byte == ' ' || byte == '\n' || byte == '\r' || byte == '\t';
}

static int gw__json_is_digit(char byte)
{
    return byte >= '0' && byte <= '9';
}

static const char *gw__json_space_end(const char *at, const char *end)
{
    while (at < end && gw__json_is_space(*at)) at++;
    return at;
}

/* How many bytes from here on are plain text of a string: no quote, no backslash, no control byte.
 * Sixteen or eight at a time: a byte below n, less n, borrows into its top bit; equal is below 1
 * after xor. */
static GW__HOT size_t gw__json_plain_len(const char *text, size_t len)
{
    const uint64_t ones = ~(uint64_t)0 / 255;
    uint64_t word, hit;
    size_t at = 0;
#ifdef GW__SIMD
    for (; len - at >= 16; at += 16) {
        __m128i v = _mm_loadu_si128((const __m128i *)(const void *)(text + at));
        __m128i control = _mm_cmpeq_epi8(_mm_min_epu8(v, _mm_set1_epi8(0x1F)), v);
        __m128i special = _mm_or_si128(_mm_cmpeq_epi8(v, _mm_set1_epi8('"')),
                                       _mm_cmpeq_epi8(v, _mm_set1_epi8('\\')));
        int hits = _mm_movemask_epi8(_mm_or_si128(control, special));
        if (hits) return at + (size_t)__builtin_ctz((unsigned)hits);
    }
#endif
    for (; len - at >= 8; at += 8) {
        memcpy(&word, text + at, 8);
        hit = (word - ones * 0x20) | ((word ^ ones * '"') - ones) | ((word ^ ones * '\\') - ones);
        if (hit & ~word & ones * 0x80) break;
    }
    while (at < len && (uint8_t)text[at] >= 0x20 && text[at] != '"' && text[at] != '\\') at++;
    return at;
}

/* Copies what fits and counts all, so that lengths come out as snprintf gives them. */
static void gw__json_put(char *out, size_t cap, size_t *len, const char *bytes, size_t count)
{
    size_t room = *len < cap ? cap - *len : 0;
    if (room > count) room = count;
    if (room) memcpy(out + *len, bytes, room);
    *len += count;
}

static int gw__json_put_utf8(char *out, uint32_t code)
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    if (code < 0x800) {
        out[0] = (char)(0xC0 | code >> 6);
        out[1] = (char)(0x80 | (code & 0x3F));
        return 2;
    }
    if (code < 0x10000) {
        out[0] = (char)(0xE0 | code >> 12);
        out[1] = (char)(0x80 | (code >> 6 & 0x3F));
        out[2] = (char)(0x80 | (code & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | code >> 18);
    out[1] = (char)(0x80 | (code >> 12 & 0x3F));
    out[2] = (char)(0x80 | (code >> 6 & 0x3F));
    out[3] = (char)(0x80 | (code & 0x3F));
    return 4;
}

/* ---- decoding: the inside of a string, which may come in pieces (RFC 8259 section 7) ---- */
typedef struct gw__json_decoder {
    uint32_t escaped;           /* a backslash has been seen */
    uint32_t hex_left;          /* digits of \uXXXX still to come */
    uint32_t unit;              /* ... and their value so far */
    uint32_t high;              /* a high surrogate that waits for its low one */
} gw__json_decoder;

#define GW__JSON_DECODED_MAX 8  /* a replacement for a lone surrogate and one character */

static int gw__json_hex(char byte)
{
    if (gw__json_is_digit(byte)) return byte - '0';
    if (byte >= 'a' && byte <= 'f') return byte - 'a' + 10;
    if (byte >= 'A' && byte <= 'F') return byte - 'A' + 10;
    return -1;
}

/* What a backslash and this letter stand for; 0: nothing. */
static uint32_t gw__json_unescaped(char byte)
{
    switch (byte) {
    case '"': case '\\': case '/': return (uint32_t)byte;
    case 'b': return '\b';
    case 'f': return '\f';
    case 'n': return '\n';
    case 'r': return '\r';
    case 't': return '\t';
    }
    return 0;
}

/* To be called at the end too: a high surrogate without its low one becomes U+FFFD. */
static int gw__json_decode_flush(gw__json_decoder *decoder, char *out)
{
    if (!decoder->high) return 0;
    decoder->high = 0;
    return gw__json_put_utf8(out, 0xFFFD);
}

static int gw__json_decode_unit(gw__json_decoder *decoder, uint32_t unit, char *out)
{
    int is_high = unit >= 0xD800 && unit <= 0xDBFF, is_low = unit >= 0xDC00 && unit <= 0xDFFF;
    uint32_t high = decoder->high;
    int count;
    if (high && is_low) {
        decoder->high = 0;
        return gw__json_put_utf8(out, 0x10000 + ((high - 0xD800) << 10) + (unit - 0xDC00));
    }
    count = gw__json_decode_flush(decoder, out);
    if (is_high) {
        decoder->high = unit;
        return count;
    }
    return count + gw__json_put_utf8(out + count, is_low ? 0xFFFD : unit);
}

/* Takes one byte, gives the decoded bytes that it completes; -1: it may not stand there. */
static int gw__json_decode(gw__json_decoder *decoder, char byte, char out[GW__JSON_DECODED_MAX])
{
    int count, digit;
    if (decoder->hex_left) {
        digit = gw__json_hex(byte);
        if (digit < 0) return -1;
        decoder->unit = decoder->unit << 4 | (uint32_t)digit;
        return --decoder->hex_left ? 0 : gw__json_decode_unit(decoder, decoder->unit, out);
    }
    if (decoder->escaped) {
        decoder->escaped = 0;
        decoder->unit = gw__json_unescaped(byte);
        if (byte == 'u') decoder->hex_left = 4;
        else if (decoder->unit == 0) return -1;
        return byte == 'u' ? 0 : gw__json_decode_unit(decoder, decoder->unit, out);
    }
    if ((uint8_t)byte < 0x20) return -1;
    if (byte == '\\') {
        decoder->escaped = 1;
        return 0;
    }
    count = gw__json_decode_flush(decoder, out);
    out[count] = byte;
    return count + 1;
}

static int gw__json_decoder_is_idle(const gw__json_decoder *decoder)
{
    return !decoder->escaped && !decoder->hex_left && !decoder->high;
}

/* Decodes the inside of a string that has been checked; full length, without a 0 at the end. */
static size_t gw__json_decode_all(const char *raw, size_t raw_len, char *out, size_t cap)
{
    gw__json_decoder decoder;
    char piece[GW__JSON_DECODED_MAX];
    size_t at = 0, len = 0, plain;
    memset(&decoder, 0, sizeof decoder);
    while (at < raw_len) {
        plain = gw__json_decoder_is_idle(&decoder) ? gw__json_plain_len(raw + at, raw_len - at) : 0;
        gw__json_put(out, cap, &len, raw + at, plain);
        at += plain;
        if (!plain) {
            int count = gw__json_decode(&decoder, raw[at++], piece);
            if (count > 0) gw__json_put(out, cap, &len, piece, (size_t)count);
        }
    }
    gw__json_put(out, cap, &len, piece, (size_t)gw__json_decode_flush(&decoder, piece));
    return len;
}

/* Is the inside of a (checked) string, decoded, this text? */
static int gw__json_decodes_to(const char *raw, size_t raw_len, const char *text, size_t len)
{
    gw__json_decoder decoder;
    char piece[GW__JSON_DECODED_MAX];
    size_t at, same = 0, count;
    if (raw_len < len) return 0;        /* decoding never makes longer */
    if (!memchr(raw, '\\', raw_len)) return raw_len == len && memcmp(raw, text, len) == 0;
    memset(&decoder, 0, sizeof decoder);
    for (at = 0; at <= raw_len; at++) {
        int decoded = at < raw_len ? gw__json_decode(&decoder, raw[at], piece)
                                   : gw__json_decode_flush(&decoder, piece);
        if (decoded < 0) return 0;
        count = (size_t)decoded;
        if (count > len - same || memcmp(piece, text + same, count) != 0) return 0;
        same += count;
    }
    return same == len;
}

/* ---- pieces of grammar, each for text in pieces ---- */
/* A bare value: true, false, null or a number. */
enum gw__json_number {          /* where in a number we are: RFC 8259 section 6 */
    GW__JSON_NO_NUMBER, GW__JSON_START, GW__JSON_SIGN, GW__JSON_ZERO, GW__JSON_INTEGER,
    GW__JSON_POINT, GW__JSON_FRACTION, GW__JSON_E, GW__JSON_E_SIGN, GW__JSON_EXPONENT
};
typedef struct gw__json_bare {
    const char *word;           /* what is still to come of the word, or NULL: it is a number */
    uint32_t number;            /* enum gw__json_number */
} gw__json_bare;

static uint32_t gw__json_number_step(uint32_t number, char byte)
{
    int digit = gw__json_is_digit(byte), e = byte == 'e' || byte == 'E';
    switch ((enum gw__json_number)number) {
    case GW__JSON_START:
        if (byte == '-') return GW__JSON_SIGN;
        return byte == '0' ? GW__JSON_ZERO : digit ? GW__JSON_INTEGER : GW__JSON_NO_NUMBER;
    case GW__JSON_SIGN:
        return byte == '0' ? GW__JSON_ZERO : digit ? GW__JSON_INTEGER : GW__JSON_NO_NUMBER;
    case GW__JSON_INTEGER:
        if (digit) return GW__JSON_INTEGER;
        return byte == '.' ? GW__JSON_POINT : e ? GW__JSON_E : GW__JSON_NO_NUMBER;
    case GW__JSON_ZERO:
        return byte == '.' ? GW__JSON_POINT : e ? GW__JSON_E : GW__JSON_NO_NUMBER;
    case GW__JSON_POINT:
        return digit ? GW__JSON_FRACTION : GW__JSON_NO_NUMBER;
    case GW__JSON_FRACTION:
        return digit ? GW__JSON_FRACTION : e ? GW__JSON_E : GW__JSON_NO_NUMBER;
    case GW__JSON_E:
        if (byte == '+' || byte == '-') return GW__JSON_E_SIGN;
        return digit ? GW__JSON_EXPONENT : GW__JSON_NO_NUMBER;
    case GW__JSON_E_SIGN: case GW__JSON_EXPONENT:
        return digit ? GW__JSON_EXPONENT : GW__JSON_NO_NUMBER;
    case GW__JSON_NO_NUMBER: break;
    }
    return GW__JSON_NO_NUMBER;
}

static void gw__json_bare_begin(gw__json_bare *bare, char first)
{
    bare->word = first == 't' ? "true" : first == 'f' ? "false" : first == 'n' ? "null" : NULL;
    bare->number = GW__JSON_START;
}

/* 1: the byte belongs to the value. 0: it does not, and the value ends before it. */
static int gw__json_bare_push(gw__json_bare *bare, char byte)
{
    uint32_t number;
    if (bare->word) {
        if (byte == 0 || *bare->word != byte) return 0;
        bare->word++;
        return 1;
    }
    number = gw__json_number_step(bare->number, byte);
    if (number == GW__JSON_NO_NUMBER) return 0;
    bare->number = number;
    return 1;
}

static int gw__json_bare_is_whole(const gw__json_bare *bare)
{
    if (bare->word) return *bare->word == 0;
    return bare->number == GW__JSON_ZERO || bare->number == GW__JSON_INTEGER
        || bare->number == GW__JSON_FRACTION || bare->number == GW__JSON_EXPONENT;
}

static size_t gw__json_word_len(const char *text, size_t len, const char *word, size_t word_len)
{
    return len >= word_len && memcmp(text, word, word_len) == 0 ? word_len : 0;
}

/* Length of the bare value that begins here; 0: there is none. Words and plain integers, which most
 * are, need no steps. */
static size_t gw__json_bare_len(const char *text, size_t len)
{
    gw__json_bare bare;
    size_t at = 0;
    if (len == 0) return 0;
    switch (text[0]) {
    case 't': return gw__json_word_len(text, len, "true", 4);
    case 'f': return gw__json_word_len(text, len, "false", 5);
    case 'n': return gw__json_word_len(text, len, "null", 4);
    case '0': case '-': break;
    default:
        while (at < len && gw__json_is_digit(text[at])) at++;
        if (at && (at == len || (text[at] != '.' && (text[at] | 0x20) != 'e'))) return at;
        at = 0;
    }
    gw__json_bare_begin(&bare, text[0]);
    while (at < len && gw__json_bare_push(&bare, text[at])) at++;
    return gw__json_bare_is_whole(&bare) ? at : 0;
}

/* A nest: an object or array, passed over by counting its brackets. One count takes the place of a
 * stack, so ten million levels cost no memory: "[}" passes, but nothing that does not close. */
typedef struct gw__json_nest {
    uint32_t in_string;
    uint64_t depth;             /* of brackets; between the two, of which GCC would make a vector */
    uint32_t escaped;
    uint32_t is_text;           /* what was pushed last may hold more than ASCII */
    const char *why;            /* after -1 */
} gw__json_nest;

/* The part of a string inside a nest; used: up to its quote, or to what may not stand there. */
static int gw__json_nest_string(gw__json_nest *nest, const char *bytes, size_t len, size_t *used)
{
    size_t at = 0;
    while (at < len) {
        if (nest->escaped) {
            if ((uint8_t)bytes[at] < 0x20) break;
            nest->escaped = 0;
            at++;
        }
        at += gw__json_plain_len(bytes + at, len - at);
        if (at == len || bytes[at] != '\\') break;
        nest->escaped = 1;
        at++;
    }
    *used = at;
    if (at == len) return 1;
    if (bytes[at] != '"' || nest->escaped) return 0;
    nest->in_string = 0;
    *used = at + 1;
    return 1;
}

/* 1: the nest has closed, with the last byte used. 0: goes on. -1: not JSON. It begins with its own
 * opening bracket. One thought, whole because every byte of every large payload passes through. */
static int gw__json_nest_push_plain(gw__json_nest *nest, const char *bytes, size_t len,
                                    size_t *used)
{
    size_t at = 0, took;
    int closed = 0;
    nest->is_text = 1;
    while (at < len && !closed) {
        if (nest->in_string) {
            int fine = gw__json_nest_string(nest, bytes + at, len - at, &took);
            at += took;
            if (!fine) {
                nest->why = "a control byte stands inside a string";
                closed = -1;
            }
            continue;
        }
        switch (bytes[at++]) {
        case '"': nest->in_string = 1; break;
        case '{': case '[': nest->depth++; break;
        case '}': case ']': closed = --nest->depth == 0; break;
        }
    }
    *used = at;
    return closed;
}

/* ---- the same, 64 bytes at a time where there is SSE2, or on a machine with AVX2 ----
 * A bit a byte, as in Langdale and Lemire, "Parsing Gigabytes of JSON per Second": what stands
 * inside strings, and then only the brackets outside of them are looked at. */
#ifdef GW__SIMD
#define GW__JSON_BLOCK 64u
#define GW__AVX2 __attribute__((target("avx2,pclmul,popcnt")))

typedef struct gw__json_block {
    uint64_t quote, backslash, open, close;
    uint64_t control;           /* bytes below 0x20 */
    uint32_t is_text;           /* there are some above 0x7F */
} gw__json_block;

static GW__ALWAYS uint64_t gw__json_bits_sse2(__m128i bytes, char byte)
{
    return (uint64_t)(uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(bytes, _mm_set1_epi8(byte)));
}

/* '[' and '{' differ in the bit 0x20, as do ']' and '}'. */
static GW__ALWAYS void gw__json_block_sse2(gw__json_block *block, const char *bytes)
{
    __m128i all = _mm_setzero_si128();
    uint32_t i;
    memset(block, 0, sizeof *block);
    for (i = 0; i < GW__JSON_BLOCK; i += 16) {
        __m128i v = _mm_loadu_si128((const __m128i *)(const void *)(bytes + i));
        __m128i folded = _mm_or_si128(v, _mm_set1_epi8(0x20));
        __m128i least = _mm_min_epu8(v, _mm_set1_epi8(0x1F));
        all = _mm_or_si128(all, v);
        block->quote |= gw__json_bits_sse2(v, '"') << i;
        block->backslash |= gw__json_bits_sse2(v, '\\') << i;
        block->control |= (uint64_t)(uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(v, least)) << i;
        block->open |= gw__json_bits_sse2(folded, '{') << i;
        block->close |= gw__json_bits_sse2(folded, '}') << i;
    }
    block->is_text = (uint32_t)_mm_movemask_epi8(all);
}

/* Where the two are alike. */
GW__AVX2 static GW__ALWAYS uint64_t gw__json_same_avx2(__m256i low, __m256i high, __m256i low_wanted,
                                                       __m256i high_wanted)
{
    uint32_t low_bits = (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(low, low_wanted));
    uint32_t high_bits = (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(high, high_wanted));
    return (uint64_t)high_bits << 32 | low_bits;
}

GW__AVX2 static GW__ALWAYS uint64_t gw__json_bits_avx2(__m256i low, __m256i high, char byte)
{
    __m256i wanted = _mm256_set1_epi8(byte);
    return gw__json_same_avx2(low, high, wanted, wanted);
}

/* Bytes below 0x20. */
GW__AVX2 static GW__ALWAYS uint64_t gw__json_control_avx2(__m256i low, __m256i high)
{
    __m256i most = _mm256_set1_epi8(0x1F);
    return gw__json_same_avx2(low, high, _mm256_min_epu8(low, most), _mm256_min_epu8(high, most));
}

GW__AVX2 static GW__ALWAYS void gw__json_block_avx2(gw__json_block *block, const char *bytes)
{
    __m256i low = _mm256_loadu_si256((const __m256i *)(const void *)bytes);
    __m256i high = _mm256_loadu_si256((const __m256i *)(const void *)(bytes + 32));
    __m256i space = _mm256_set1_epi8(0x20), backslash = _mm256_set1_epi8('\\');
    __m256i least = _mm256_min_epu8(_mm256_min_epu8(low, high), space);
    __m256i escape = _mm256_or_si256(_mm256_cmpeq_epi8(low, backslash),
                                     _mm256_cmpeq_epi8(high, backslash));
    __m256i usual = _mm256_andnot_si256(escape, _mm256_cmpeq_epi8(least, space));
    __m256i folded_low = _mm256_or_si256(low, space), folded_high = _mm256_or_si256(high, space);
    block->quote = gw__json_bits_avx2(low, high, '"');
    block->open = gw__json_bits_avx2(folded_low, folded_high, '{');
    block->close = gw__json_bits_avx2(folded_low, folded_high, '}');
    block->is_text = (uint32_t)_mm256_movemask_epi8(_mm256_or_si256(low, high));
    block->backslash = block->control = 0;
    if (_mm256_movemask_epi8(usual) == -1) return;      /* as most blocks are */
    block->backslash = gw__json_bits_avx2(low, high, '\\');
    block->control = gw__json_control_avx2(low, high);
}

/* Bytes that stand behind a backslash which is not itself escaped; before: 1 if the first byte
 * does. */
static uint64_t gw__json_block_escaped(uint64_t backslash, uint64_t before)
{
    const uint64_t even = UINT64_C(0x5555555555555555);
    uint64_t follows, odd_starts;
    backslash &= ~before;
    follows = backslash << 1 | before;
    odd_starts = backslash & ~even & ~follows;
    return (even ^ (odd_starts + backslash) << 1) & follows;
}

/* Bit i: how many bits up to i are set, odd or even. */
static GW__ALWAYS uint64_t gw__json_parity_sse2(uint64_t bits)
{
    bits ^= bits << 1;
    bits ^= bits << 2;
    bits ^= bits << 4;
    bits ^= bits << 8;
    bits ^= bits << 16;
    return bits ^ bits << 32;
}

/* The same: multiplied by ones, without carries. */
GW__AVX2 static GW__ALWAYS uint64_t gw__json_parity_avx2(uint64_t bits)
{
    __m128i product = _mm_clmulepi64_si128(_mm_set_epi64x(0, (int64_t)bits), _mm_set1_epi8(-1), 0);
    uint64_t low;
    _mm_storel_epi64((__m128i *)(void *)&low, product);
    return low;
}

/* What the two kinds of machine do in their own ways; known where it is inlined. */
typedef struct gw__json_machine {
    void (*read)(gw__json_block *block, const char *bytes);
    uint64_t (*parity)(uint64_t bits);
    int counts_bits;
} gw__json_machine;

/* The next block, of which the last `part` bytes count, as gw__json_nest_push_plain() reads it:
 * that does so where a block is odd, with a control byte inside a string or a backslash outside. */
static GW__ALWAYS int gw__json_nest_block(gw__json_nest *nest, const char *bytes, size_t part,
                                          size_t *used, const gw__json_machine *machine)
{
    gw__json_block block;
    size_t skip = GW__JSON_BLOCK - part;
    uint64_t escaped = nest->escaped, depth = nest->depth, inside, open, close, brackets, closes;
    machine->read(&block, bytes);
    nest->is_text |= block.is_text;
    block.backslash >>= skip;
    if (block.backslash) escaped = gw__json_block_escaped(block.backslash, escaped);
    inside = machine->parity(block.quote >> skip & ~escaped) ^ (0 - (uint64_t)nest->in_string);
    if ((block.control >> skip & inside) | (block.backslash & ~inside)) {
        gw__json_nest now = *nest;      /* whose address may be known, so that nest stays in registers */
        int closed = gw__json_nest_push_plain(&now, bytes + skip, part, used);
        *nest = now;
        return closed;
    }
    open = block.open >> skip & ~inside;
    close = block.close >> skip & ~inside;
    brackets = open | close;
    closes = machine->counts_bits ? (uint64_t)__builtin_popcountll(close) : depth;
    if (closes < depth) {               /* in whatever order, they leave the nest open */
        depth += (uint64_t)__builtin_popcountll(open) - closes;
        brackets = 0;
    }
    for (; brackets; brackets &= brackets - 1) {
        depth += open & brackets & (0 - brackets) ? 1 : ~(uint64_t)0;
        if (depth) continue;
        *used = (size_t)__builtin_ctzll(brackets) + 1;
        return 1;
    }
    nest->depth = depth;
    nest->in_string = (uint32_t)(inside >> 63);
    nest->escaped = (uint32_t)((block.backslash & ~escaped) >> (part - 1) & 1u);
    return 0;
}

/* The last block is read with bytes before it, that count no more; if there are as many. */
static GW__ALWAYS int gw__json_nest_blocks(gw__json_nest *nest, const char *bytes, size_t len,
                                           size_t *used, const gw__json_machine *machine)
{
    gw__json_nest now = *nest;
    size_t at = 0, took = 0;
    int closed = 0;
    if (len < GW__JSON_BLOCK) return gw__json_nest_push_plain(nest, bytes, len, used);
    now.is_text = 0;
    for (; len - at >= GW__JSON_BLOCK; at += GW__JSON_BLOCK) {
        closed = gw__json_nest_block(&now, bytes + at, GW__JSON_BLOCK, &took, machine);
        if (closed) break;
    }
    if (!closed && at < len)
        closed = gw__json_nest_block(&now, bytes + len - GW__JSON_BLOCK, len - at, &took, machine);
    *used = closed ? at + took : len;
    *nest = now;
    return closed;
}

GW__AVX2 static int gw__json_nest_push_avx2(gw__json_nest *nest, const char *bytes, size_t len,
                                            size_t *used)
{
    static const gw__json_machine avx2 = { gw__json_block_avx2, gw__json_parity_avx2, 1 };
    return gw__json_nest_blocks(nest, bytes, len, used, &avx2);
}

static int gw__json_nest_push_sse2(gw__json_nest *nest, const char *bytes, size_t len,
                                   size_t *used)
{
    static const gw__json_machine sse2 = { gw__json_block_sse2, gw__json_parity_sse2, 0 };
    return gw__json_nest_blocks(nest, bytes, len, used, &sse2);
}

static int gw__json_nest_push(gw__json_nest *nest, const char *bytes, size_t len, size_t *used)
{
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("pclmul") &&
        __builtin_cpu_supports("popcnt"))
        return gw__json_nest_push_avx2(nest, bytes, len, used);
    return gw__json_nest_push_sse2(nest, bytes, len, used);
}
#else
static int gw__json_nest_push(gw__json_nest *nest, const char *bytes, size_t len, size_t *used)
{
    return gw__json_nest_push_plain(nest, bytes, len, used);
}
#endif

/* ---- the envelope, as it streams past ---- */
#define GW__NAME_MAX 128        /* of t, with a 0 at its end; what is longer is cut */

typedef enum gw__json_found {
    GW__JSON_NEED_MORE,         /* all bytes are used */
    GW__JSON_OP, GW__JSON_SEQ, GW__JSON_NAME,   /* of a repeated key the last one wins */
    GW__JSON_D_BEGIN,           /* the next byte, not used yet, is the first one of d */
    GW__JSON_D_END,             /* the last byte used was the last one of d */
    GW__JSON_END,               /* the envelope is closed; only white space may follow */
    GW__JSON_BROKEN             /* for good; why says it */
} gw__json_found;

/* Where between the two braces of the envelope we are: AT before a thing, IN inside of one. */
enum gw__json_place {
    GW__JSON_AT_OPENING, GW__JSON_AT_FIRST_KEY, GW__JSON_AT_KEY, GW__JSON_IN_KEY, GW__JSON_AT_COLON,
    GW__JSON_AT_VALUE, GW__JSON_IN_STRING, GW__JSON_IN_BARE, GW__JSON_IN_NEST, GW__JSON_AT_COMMA,
    GW__JSON_BEHIND, GW__JSON_FAULT
};
enum gw__json_field {
    GW__JSON_OTHER, GW__JSON_FIELD_OP, GW__JSON_FIELD_S, GW__JSON_FIELD_T, GW__JSON_FIELD_D
};

typedef struct gw__json_scan {
    uint32_t has_op, has_seq, has_name, has_d;  /* null is "has not", except for d */
    uint64_t op, seq;
    size_t name_len;            /* of name, below */
    const char *why;            /* after BROKEN: a sentence */
    /* how far we are */
    uint32_t place;             /* enum gw__json_place */
    uint32_t field;             /* enum gw__json_field: whose value comes or is in hand */
    uint32_t d_begun;           /* D_BEGIN was given for the value in hand */
    uint32_t is_text;           /* what was used since it was cleared may hold more than ASCII */
    char key[4];                /* decoded; none of ours is longer */
    size_t key_len;
    uint64_t integer;           /* of a bare value: its number ... */
    uint32_t no_integer;        /* ... unless it is none, or does not fit */
    gw__json_decoder decoder;
    char name[GW__NAME_MAX];    /* t, decoded, 0-terminated */
    gw__json_bare bare;
    gw__json_nest nest;
} gw__json_scan;

static void gw__json_scan_begin(gw__json_scan *scan)
{
    scan->has_op = scan->has_seq = scan->has_name = scan->has_d = 0;
    scan->op = scan->seq = 0;
    scan->name[0] = 0;
    scan->name_len = 0;
    scan->why = "";
    scan->place = GW__JSON_AT_OPENING;
    scan->field = GW__JSON_OTHER;
    scan->d_begun = 0;
    memset(&scan->decoder, 0, sizeof scan->decoder);
    scan->bare.word = NULL;
}

static gw__json_found gw__json_scan_fault(gw__json_scan *scan, const char *why)
{
    scan->place = GW__JSON_FAULT;
    scan->why = why;
    return GW__JSON_BROKEN;
}

static uint32_t gw__json_scan_field(const gw__json_scan *scan)
{
    if (scan->key_len == 2 && memcmp(scan->key, "op", 2) == 0) return GW__JSON_FIELD_OP;
    if (scan->key_len != 1) return GW__JSON_OTHER;
    switch (scan->key[0]) {
    case 's': return GW__JSON_FIELD_S;
    case 't': return GW__JSON_FIELD_T;
    case 'd': return GW__JSON_FIELD_D;
    }
    return GW__JSON_OTHER;
}

/* A value has ended: what was found? */
static gw__json_found gw__json_scan_value_end(gw__json_scan *scan)
{
    int is_null = scan->bare.word != NULL;      /* of op, s and t: no other word gets this far */
    scan->place = GW__JSON_AT_COMMA;
    switch ((enum gw__json_field)scan->field) {
    case GW__JSON_OTHER: break;
    case GW__JSON_FIELD_OP:
        scan->has_op = !is_null;
        scan->op = scan->integer;
        return is_null ? GW__JSON_NEED_MORE : GW__JSON_OP;
    case GW__JSON_FIELD_S:
        scan->has_seq = !is_null;
        scan->seq = scan->integer;
        return is_null ? GW__JSON_NEED_MORE : GW__JSON_SEQ;
    case GW__JSON_FIELD_T:
        scan->has_name = !is_null;
        scan->name_len = is_null ? 0 : scan->name_len;
        scan->name[scan->name_len] = 0;
        return is_null ? GW__JSON_NEED_MORE : GW__JSON_NAME;
    case GW__JSON_FIELD_D:
        scan->has_d = 1;
        scan->d_begun = 0;
        return GW__JSON_D_END;
    }
    return GW__JSON_NEED_MORE;
}

/* May a value of this field begin so? op and s: an integer or null. t: a string or null. */
static const char *gw__json_scan_objection(const gw__json_scan *scan, char first)
{
    int number = gw__json_is_digit(first) || first == '-';
    switch ((enum gw__json_field)scan->field) {
    case GW__JSON_FIELD_OP:
        return number || first == 'n' ? NULL : "op is not an integer";
    case GW__JSON_FIELD_S:
        return number || first == 'n' ? NULL : "s is neither an integer nor null";
    case GW__JSON_FIELD_T:
        return first == '"' || first == 'n' ? NULL : "t is neither a string nor null";
    case GW__JSON_OTHER: case GW__JSON_FIELD_D: break;
    }
    if (number || (first && strchr("\"{[tfn", first))) return NULL;
    return "a key of the payload has no value";
}

static void gw__json_scan_enter_nest(gw__json_scan *scan)
{
    scan->place = GW__JSON_IN_NEST;
    scan->nest.depth = 0;
    scan->nest.in_string = scan->nest.escaped = 0;
}

static gw__json_found gw__json_scan_value(gw__json_scan *scan, char first, size_t *used)
{
    const char *objection = gw__json_scan_objection(scan, first);
    if (objection) return gw__json_scan_fault(scan, objection);
    if (scan->field == GW__JSON_FIELD_D && !scan->d_begun) {
        scan->d_begun = 1;
        return GW__JSON_D_BEGIN;
    }
    scan->bare.word = NULL;
    if (first == '"') {
        scan->place = GW__JSON_IN_STRING;
        if (scan->field == GW__JSON_FIELD_T) scan->name[scan->name_len = 0] = 0;
        *used = 1;
    } else if (first == '{' || first == '[') {
        gw__json_scan_enter_nest(scan);
    } else {
        scan->place = GW__JSON_IN_BARE;
        scan->integer = scan->no_integer = 0;
        gw__json_bare_begin(&scan->bare, first);
    }
    return GW__JSON_NEED_MORE;
}

static const char *gw__json_scan_expected(uint32_t place)
{
    switch ((enum gw__json_place)place) {
    case GW__JSON_AT_OPENING: return "the payload is not a JSON object";
    case GW__JSON_AT_COLON:   return "a key of the payload has no colon behind it";
    case GW__JSON_AT_COMMA:   return "no comma stands between two keys of the payload";
    case GW__JSON_BEHIND:     return "bytes follow the payload's closing brace";
    case GW__JSON_AT_FIRST_KEY: case GW__JSON_AT_KEY: case GW__JSON_IN_KEY:
    case GW__JSON_AT_VALUE: case GW__JSON_IN_STRING: case GW__JSON_IN_BARE:
    case GW__JSON_IN_NEST: case GW__JSON_FAULT: break;
    }
    return "a key of the payload is not a string";
}

/* A byte between the things: a brace, a comma, a colon, a quote, the first byte of a value. */
static gw__json_found gw__json_scan_between(gw__json_scan *scan, char byte, size_t *used)
{
    uint32_t place = scan->place;
    if (place == GW__JSON_AT_VALUE) return gw__json_scan_value(scan, byte, used);
    *used = 1;
    if (byte == '}' && (place == GW__JSON_AT_FIRST_KEY || place == GW__JSON_AT_COMMA)) {
        scan->place = GW__JSON_BEHIND;
        return GW__JSON_END;
    }
    if (place == GW__JSON_AT_OPENING && byte == '{') {
        scan->place = GW__JSON_AT_FIRST_KEY;
    } else if ((place == GW__JSON_AT_FIRST_KEY || place == GW__JSON_AT_KEY) && byte == '"') {
        scan->place = GW__JSON_IN_KEY;
        scan->key_len = 0;
    } else if (place == GW__JSON_AT_COLON && byte == ':') {
        scan->place = GW__JSON_AT_VALUE;
    } else if (place == GW__JSON_AT_COMMA && byte == ',') {
        scan->place = GW__JSON_AT_KEY;
    } else {
        *used = 0;
        return gw__json_scan_fault(scan, gw__json_scan_expected(place));
    }
    return GW__JSON_NEED_MORE;
}

/* Keeps what is decoded of a key or of t, as far as there is room. */
static void gw__json_scan_keep(gw__json_scan *scan, const char *bytes, size_t count)
{
    if (scan->place == GW__JSON_IN_KEY) {
        gw__json_put(scan->key, sizeof scan->key, &scan->key_len, bytes, count);
    } else if (scan->field == GW__JSON_FIELD_T) {
        gw__json_put(scan->name, GW__NAME_MAX - 1, &scan->name_len, bytes, count);
        scan->name[GW__MIN(scan->name_len, GW__NAME_MAX - 1)] = 0;      /* at all times */
    }
}

static gw__json_found gw__json_scan_string_end(gw__json_scan *scan)
{
    char rest[GW__JSON_DECODED_MAX];
    gw__json_scan_keep(scan, rest, (size_t)gw__json_decode_flush(&scan->decoder, rest));
    if (scan->place == GW__JSON_IN_KEY) {
        scan->field = gw__json_scan_field(scan);
        scan->place = GW__JSON_AT_COLON;
        return GW__JSON_NEED_MORE;
    }
    if (scan->name_len >= GW__NAME_MAX)
        scan->name_len = gw__text_cut(scan->name, GW__NAME_MAX - 1);
    return gw__json_scan_value_end(scan);
}

/* A key, or a string as a value: a plain run in one go, the rest by the byte. */
static gw__json_found gw__json_scan_string(gw__json_scan *scan, const char *bytes, size_t len,
                                           size_t *used)
{
    char decoded[GW__JSON_DECODED_MAX];
    int count;
    scan->is_text = 1;
    if (gw__json_decoder_is_idle(&scan->decoder)) {
        *used = gw__json_plain_len(bytes, len);
        gw__json_scan_keep(scan, bytes, *used);
        if (*used) return GW__JSON_NEED_MORE;
    }
    if (bytes[0] == '"' && !scan->decoder.escaped && !scan->decoder.hex_left) {
        *used = 1;
        return gw__json_scan_string_end(scan);
    }
    count = gw__json_decode(&scan->decoder, bytes[0], decoded);
    if (count < 0)
        return gw__json_scan_fault(scan, "a control byte or a wrong escape stands in a string");
    gw__json_scan_keep(scan, decoded, (size_t)count);
    *used = 1;
    return GW__JSON_NEED_MORE;
}

static void gw__json_scan_count(gw__json_scan *scan, char byte)
{
    uint64_t digit = (uint64_t)(byte - '0');
    if (!gw__json_is_digit(byte) || scan->integer > (UINT64_MAX - digit) / 10) scan->no_integer = 1;
    else scan->integer = scan->integer * 10 + digit;
}

/* The byte behind a bare value is looked at, not used: it belongs to the envelope. */
static gw__json_found gw__json_scan_bare(gw__json_scan *scan, const char *bytes, size_t len,
                                         size_t *used)
{
    size_t at = 0;
    for (; at < len && gw__json_bare_push(&scan->bare, bytes[at]); at++)
        if (!scan->bare.word) gw__json_scan_count(scan, bytes[at]);
    *used = at;
    if (at == len) return GW__JSON_NEED_MORE;
    if (!gw__json_bare_is_whole(&scan->bare))
        return gw__json_scan_fault(scan, "a value of the payload is no JSON");
    if (!gw__json_is_space(bytes[at]) && bytes[at] != ',' && bytes[at] != '}')
        return gw__json_scan_fault(scan, "a value of the payload is no JSON");
    if (scan->no_integer && scan->field == GW__JSON_FIELD_OP)
        return gw__json_scan_fault(scan, "op is not an integer from 0 to 2^64-1");
    if (scan->no_integer && scan->field == GW__JSON_FIELD_S)
        return gw__json_scan_fault(scan, "s is not an integer from 0 to 2^64-1");
    return gw__json_scan_value_end(scan);
}

static gw__json_found gw__json_scan_nest(gw__json_scan *scan, const char *bytes, size_t len,
                                         size_t *used)
{
    int closed = gw__json_nest_push(&scan->nest, bytes, len, used);
    scan->is_text |= scan->nest.is_text;
    switch (closed) {
    case 0: return GW__JSON_NEED_MORE;
    case 1: return gw__json_scan_value_end(scan);
    }
    return gw__json_scan_fault(scan, scan->nest.why);
}

static gw__json_found gw__json_scan_step(gw__json_scan *scan, const char *bytes, size_t len,
                                         size_t *used)
{
    switch ((enum gw__json_place)scan->place) {
    case GW__JSON_IN_KEY:
    case GW__JSON_IN_STRING: return gw__json_scan_string(scan, bytes, len, used);
    case GW__JSON_IN_BARE:   return gw__json_scan_bare(scan, bytes, len, used);
    case GW__JSON_IN_NEST:   return gw__json_scan_nest(scan, bytes, len, used);
    case GW__JSON_FAULT:     return GW__JSON_BROKEN;
    case GW__JSON_AT_OPENING: case GW__JSON_AT_FIRST_KEY: case GW__JSON_AT_KEY:
    case GW__JSON_AT_COLON: case GW__JSON_AT_VALUE: case GW__JSON_AT_COMMA:
    case GW__JSON_BEHIND: break;
    }
    if (!gw__json_is_space(bytes[0])) return gw__json_scan_between(scan, bytes[0], used);
    *used = 1;
    return GW__JSON_NEED_MORE;
}

/* The beginning of a payload as Discord mostly writes it, in one go: {"t":"NAME","s":1,"op":0,"d":
 * and then an object. 1: the scan stands at d, as if it had gone there by itself and D_BEGIN had
 * been given, and `used` bytes are done. 0: nothing has happened; whatever it is,
 * gw__json_scan_next() reads it. */
static int gw__json_scan_usual(gw__json_scan *scan, const uint8_t *bytes, size_t len, size_t *used)
{
    static const char begin[] = "{\"t\":\"", seq[] = "\",\"s\":", rest[] = ",\"op\":0,\"d\":{";
    const char *text = (const char *)bytes;
    size_t at = sizeof begin - 1, name_len, digits = 0;
    uint64_t number = 0;
    if (len < GW__NAME_MAX + 64 || memcmp(text, begin, at) != 0) return 0;
    name_len = gw__json_plain_len(text + at, GW__NAME_MAX - 1);
    if (memcmp(text + at + name_len, seq, sizeof seq - 1) != 0) return 0;
    memcpy(scan->name, text + at, name_len);
    at += name_len + sizeof seq - 1;
    for (; digits < 19 && gw__json_is_digit(text[at + digits]); digits++)
        number = number * 10 + (uint64_t)(text[at + digits] - '0');
    if (digits == 0 || (text[at] == '0' && digits > 1)) return 0;
    if (memcmp(text + at + digits, rest, sizeof rest - 1) != 0) return 0;
    scan->name[name_len] = 0;
    scan->name_len = name_len;
    scan->seq = number;
    scan->has_name = scan->has_seq = scan->has_op = scan->d_begun = 1;
    scan->field = GW__JSON_FIELD_D;
    gw__json_scan_enter_nest(scan);
    *used = at + digits + sizeof rest - 2;
    return 1;
}

/* Strict at the envelope's own level; what is inside d, or under a key we do not know, is passed
 * over by its strings and brackets. Returns at each find with the bytes used, which may be none. */
static gw__json_found gw__json_scan_next(gw__json_scan *scan, const uint8_t *bytes, size_t len,
                                         size_t *used)
{
    gw__json_found found = GW__JSON_NEED_MORE;
    size_t took;
    *used = 0;
    while (*used < len && found == GW__JSON_NEED_MORE) {
        took = 0;
        found = gw__json_scan_step(scan, (const char *)bytes + *used, len - *used, &took);
        *used += took;
    }
    return found;
}

/* ---- strict check: RFC 8259, nothing forgiven ---- */
#define GW__JSON_DEPTH_MAX 4096u    /* levels; no command of 4,096 bytes has as many */

typedef struct gw__json_checker {
    const char *at, *end;
    uint32_t depth;
    uint8_t objects[GW__JSON_DEPTH_MAX / 8];    /* a bit for each open level: is it an object? */
} gw__json_checker;

/* The end of the string that begins here with its quote; NULL: it is broken. */
static GW__HOT const char *gw__json_string_end(const char *at, const char *end)
{
    int digits;
    if (at == end || *at++ != '"') return NULL;
    for (;;) {
        at += gw__json_plain_len(at, (size_t)(end - at));
        if (at == end) return NULL;
        if (*at == '"') return at + 1;
        if (*at++ != '\\' || at == end) return NULL;
        if (*at != 'u' && !gw__json_unescaped(*at)) return NULL;
        digits = *at++ == 'u' ? 4 : 0;
        for (; digits > 0; digits--, at++)
            if (at == end || gw__json_hex(*at) < 0) return NULL;
    }
}

static int gw__json_check_in_object(const gw__json_checker *checker)
{
    uint32_t level = checker->depth - 1;
    return checker->objects[level / 8] >> level % 8 & 1;
}

static int gw__json_check_push(gw__json_checker *checker, int object)
{
    uint32_t level = checker->depth, bit = 1u << level % 8;
    if (level == GW__JSON_DEPTH_MAX) return 0;
    if (object) checker->objects[level / 8] = (uint8_t)(checker->objects[level / 8] | bit);
    else checker->objects[level / 8] = (uint8_t)(checker->objects[level / 8] & ~bit);
    checker->depth++;
    return 1;
}

/* The next byte that is no white space; 0 at the end (and no JSON has a 0 there). */
static char gw__json_check_peek(gw__json_checker *checker)
{
    checker->at = gw__json_space_end(checker->at, checker->end);
    return checker->at < checker->end ? *checker->at : (char)0;
}

/* Inside an object a key and its colon come before the value. */
static int gw__json_check_key(gw__json_checker *checker)
{
    if (!gw__json_check_in_object(checker)) return 1;
    if (gw__json_check_peek(checker) != '"') return 0;
    checker->at = gw__json_string_end(checker->at, checker->end);
    if (!checker->at || gw__json_check_peek(checker) != ':') return 0;
    checker->at++;
    return 1;
}

/* The beginning of a value. 1: it is whole. 2: a bracket was opened and a value must follow. */
static int gw__json_check_value(gw__json_checker *checker)
{
    char first = gw__json_check_peek(checker);
    size_t len;
    if (first == '"') {
        checker->at = gw__json_string_end(checker->at, checker->end);
        return checker->at != NULL;
    }
    if (first != '{' && first != '[') {
        len = gw__json_bare_len(checker->at, (size_t)(checker->end - checker->at));
        checker->at += len;
        return len > 0;
    }
    if (!gw__json_check_push(checker, first == '{')) return 0;
    checker->at++;
    if (gw__json_check_peek(checker) == (first == '{' ? '}' : ']')) return 1;   /* empty */
    return gw__json_check_key(checker) ? 2 : 0;
}

/* Behind a value. 1: all levels are closed. 2: a comma, and a value must follow. */
static int gw__json_check_behind(gw__json_checker *checker)
{
    while (checker->depth > 0) {
        char byte = gw__json_check_peek(checker);
        if (byte == ',') {
            checker->at++;
            return gw__json_check_key(checker) ? 2 : 0;
        }
        if (byte != (gw__json_check_in_object(checker) ? '}' : ']')) return 0;
        checker->at++;
        checker->depth--;
    }
    return 1;
}

static int gw__json_check(const char *text, size_t len)
{
    gw__json_checker checker;
    int more = 2;
    if (len == 0) return 0;             /* and text may be NULL */
    checker.at = text;
    checker.end = text + len;
    checker.depth = 0;
    while (more == 2) {
        more = gw__json_check_value(&checker);
        if (more == 1) more = gw__json_check_behind(&checker);
    }
    return more == 1 && gw__json_check_peek(&checker) == 0 && checker.at == checker.end;
}

/* Any value, in UTF-8, at most GW__JSON_DEPTH_MAX levels deep: deeper counts as not valid. */
static int gw__json_is_valid(const char *text, size_t len)
{
    return gw__utf8_is(text, len) && gw__json_check(text, len);
}

/* ---- the walker: looks things up in the text itself, without memory, for any thread ---- */
typedef struct gw__json_walk {
    const char *at, *end;
    uint32_t object, first;     /* in an object; before its first member */
    const void *index;          /* handed on to what is found */
} gw__json_walk;

static gw_json gw__json_absent(void)
{
    gw_json absent;
    memset(&absent, 0, sizeof absent);
    return absent;
}

static gw_json gw__json_slice(const char *begin, const char *end, const void *index)
{
    gw_json slice;
    slice.ptr = begin;
    slice.len = (size_t)(end - begin);
    slice.index = index;
    return slice;
}

/* The value without the white space around it; absent if nothing is left. */
static gw_json gw__json_trimmed(const gw_json *v)
{
    const char *begin, *end;
    if (!v || !v->ptr) return gw__json_absent();
    end = v->ptr + v->len;
    begin = gw__json_space_end(v->ptr, end);
    while (end > begin && gw__json_is_space(end[-1])) end--;
    return begin < end ? gw__json_slice(begin, end, v->index) : gw__json_absent();
}

/* The end of the value that begins here inside an object or array; NULL: it is broken. */
static GW__HOT const char *gw__json_value_end(const char *at, const char *end)
{
    gw__json_nest nest;
    size_t len;
    if (at == end) return NULL;
    if (*at == '"') return gw__json_string_end(at, end);
    if (*at == '{' || *at == '[') {
        memset(&nest, 0, sizeof nest);
        return gw__json_nest_push(&nest, at, (size_t)(end - at), &len) == 1 ? at + len : NULL;
    }
    len = gw__json_bare_len(at, (size_t)(end - at));
    if (len == 0 || at + len == end) return NULL;
    at += len;
    return gw__json_is_space(*at) || *at == ',' || *at == ']' || *at == '}' ? at : NULL;
}

static int gw__json_walk_begin(gw__json_walk *walk, const gw_json *container)
{
    if (!container->ptr || (container->ptr[0] != '{' && container->ptr[0] != '[')) return 0;
    walk->at = container->ptr + 1;
    walk->end = container->ptr + container->len;
    walk->object = container->ptr[0] == '{';
    walk->first = 1;
    walk->index = container->index;
    return 1;
}

/* The next member. 0: there is none, as the bracket closes or as the text is broken here. */
static GW__HOT int gw__json_walk_next(gw__json_walk *walk, gw_json *key, gw_json *value)
{
    const char *at = gw__json_space_end(walk->at, walk->end), *end = walk->end, *next;
    if (!walk->first) {
        if (at == end || *at != ',') return 0;
        at = gw__json_space_end(at + 1, end);
    }
    *key = gw__json_absent();
    if (walk->object) {
        next = gw__json_string_end(at, end);
        if (!next) return 0;
        *key = gw__json_slice(at, next, walk->index);
        at = gw__json_space_end(next, end);
        if (at == end || *at != ':') return 0;
        at = gw__json_space_end(at + 1, end);
    }
    next = gw__json_value_end(at, end);
    if (!next) return 0;
    *value = gw__json_slice(at, next, walk->index);
    walk->at = next;
    walk->first = 0;
    return 1;
}

/* The length of a path's first segment. (strcspn would first make a table of 256 bytes.) */
static size_t gw__json_segment_len(const char *path)
{
    size_t len = 0;
    while (path[len] && path[len] != '.') len++;
    return len;
}

static int gw__json_key_is(const gw_json *key, const char *segment, size_t len)
{
    return gw__json_decodes_to(key->ptr + 1, key->len - 2, segment, len);
}

/* One segment of a path: a key of an object (of equal keys the first), a place in an array. */
static int gw__json_walk_child(gw__json_walk *walk, const char *segment, size_t len, gw_json *out)
{
    gw_json key, value;
    uint64_t place = 0;
    if (!walk->object && !gw__text_to_u64(segment, len, &place)) return 0;
    while (gw__json_walk_next(walk, &key, &value)) {
        if (walk->object ? gw__json_key_is(&key, segment, len) : place-- == 0) {
            *out = value;
            return 1;
        }
    }
    return 0;
}

/* ---- the index: jsmn's tokens for the event in hand ----
 * Walking costs nothing at first and adds up; tokens cost as much as several walks and make each
 * look-up after that cheap. So look-ups walk until they have walked the text several times over;
 * then the index is made, and nobody who reads three fields pays for it. jsmn is a tokeniser and
 * no validator ("[1 2]" and "tru3" pass it): text that the strict check refuses is walked for ever,
 * so both ways give the same answers. A look-up changes its index: one thread at a time. */
#define GW__JSON_INDEX_AFTER_WALKS 4u       /* measured: making the tokens costs about three */
#define GW__JSON_INDEX_KEPT        4096u    /* tokens whose memory stays for the next event */

enum gw__json_index_state { GW__JSON_INDEX_NONE, GW__JSON_INDEX_READY, GW__JSON_INDEX_UNUSABLE };

typedef struct gw__json_index {
    gw__mem *mem;
    const char *text;           /* borrowed: the event's d */
    size_t len;
    uint64_t walked_bytes;
    uint32_t state;             /* enum gw__json_index_state */
    gw__jsmn_token *tokens;     /* in order of text; size becomes the tokens of its subtree */
    size_t count, cap, max;
} gw__json_index;

static void gw__json_index_init(gw__json_index *index, gw__mem *mem, size_t max_tokens)
{
    memset(index, 0, sizeof *index);
    index->mem = mem;
    index->max = max_tokens < INT32_MAX ? max_tokens : INT32_MAX;
}

static void gw__json_index_free(gw__json_index *index)
{
    gw__mem_free(index->mem, index->tokens, index->cap * sizeof *index->tokens);
    index->tokens = NULL;
    index->cap = index->count = 0;
    index->state = GW__JSON_INDEX_NONE;
    index->text = NULL;
    index->len = 0;
}

/* A new event: forgets the tokens and keeps the array, unless one large event has made it huge. */
static void gw__json_index_point(gw__json_index *index, const char *ptr, size_t len)
{
    if (index->cap > GW__JSON_INDEX_KEPT) gw__json_index_free(index);
    index->state = GW__JSON_INDEX_NONE;
    index->text = ptr;
    index->len = len;
    index->walked_bytes = 0;
    index->count = 0;
}

static int gw__json_index_grow(gw__json_index *index)
{
    size_t cap = index->cap ? index->cap * 2 : 64;
    void *tokens;
    if (cap > index->max) cap = index->max;
    if (cap <= index->cap || cap > SIZE_MAX / sizeof *index->tokens) return 0;
    tokens = gw__mem_resize(index->mem, index->tokens, index->cap * sizeof *index->tokens,
                            cap * sizeof *index->tokens);
    if (!tokens) return 0;
    index->tokens = (gw__jsmn_token *)tokens;
    index->cap = cap;
    return 1;
}

/* jsmn goes on where it was when it is called again with a larger array. */
static int gw__json_index_tokenise(gw__json_index *index)
{
    gw__jsmn_parser parser;
    int result = GW__JSMN_ERROR_NOMEM;
    gw__jsmn_init(&parser);
    while (result == GW__JSMN_ERROR_NOMEM) {
        if (index->cap == parser.toknext && !gw__json_index_grow(index)) return 0;
        result = gw__jsmn_parse(&parser, index->text, index->len, index->tokens,
                                (unsigned)index->cap);
    }
    index->count = parser.toknext;
    return result > 0;
}

/* Afterwards the token behind a subtree is a step of `size` away. */
static void gw__json_index_sum_sizes(gw__json_index *index)
{
    gw__jsmn_token *tokens = index->tokens;
    size_t i;
    for (i = 0; i < index->count; i++) tokens[i].size = 1;
    for (i = index->count; i-- > 1;) tokens[tokens[i].parent].size += tokens[i].size;
}

static void gw__json_index_make(gw__json_index *index)
{
    int usable = index->len < INT32_MAX && gw__json_check(index->text, index->len)
        && gw__json_index_tokenise(index);
    index->state = usable ? GW__JSON_INDEX_READY : GW__JSON_INDEX_UNUSABLE;
    if (usable) gw__json_index_sum_sizes(index);
}

/* The token of an object or array inside the indexed text, by its offset; NULL: not one of ours. */
static const gw__jsmn_token *gw__json_index_token(const gw__json_index *index, const gw_json *v)
{
    uintptr_t offset = (uintptr_t)v->ptr - (uintptr_t)index->text;
    const gw__jsmn_token *token;
    size_t low = 0, high = index->count, middle;
    if (offset >= index->len) return NULL;
    while (low < high) {
        middle = low + (high - low) / 2;
        if ((uintptr_t)index->tokens[middle].start < offset) low = middle + 1;
        else high = middle;
    }
    if (low == index->count) return NULL;
    token = &index->tokens[low];
    if (token->type != GW__JSMN_OBJECT && token->type != GW__JSMN_ARRAY) return NULL;
    return (uintptr_t)token->start == offset
        && (size_t)(token->end - token->start) == v->len ? token : NULL;
}

/* The token of v if tokens are to be used for it: made now, if enough has been walked. */
static const gw__jsmn_token *gw__json_index_of(const gw_json *v)
{
    gw__json_index *index = (gw__json_index *)v->index;
    if (!index) return NULL;
    if (index->state == GW__JSON_INDEX_NONE
        && index->walked_bytes / GW__JSON_INDEX_AFTER_WALKS > index->len)
        gw__json_index_make(index);
    return index->state == GW__JSON_INDEX_READY ? gw__json_index_token(index, v) : NULL;
}

static void gw__json_index_walked(const gw_json *v, const gw__json_walk *walk)
{
    gw__json_index *index = (gw__json_index *)v->index;
    if (index) index->walked_bytes += (uint64_t)(walk->at - v->ptr);
}

static gw_json gw__json_index_slice(const gw__json_index *index, const gw__jsmn_token *token)
{
    int quote = token->type == GW__JSMN_STRING;     /* jsmn leaves the quotes out */
    const char *text = index->text;
    return gw__json_slice(text + token->start - quote, text + token->end + quote, index);
}

static int gw__json_index_child(const gw_json *v, const gw__jsmn_token *container,
                                const char *segment, size_t len, gw_json *out)
{
    const gw__json_index *index = (const gw__json_index *)v->index;
    const gw__jsmn_token *token = container + 1, *end = container + container->size;
    int object = container->type == GW__JSMN_OBJECT;
    uint64_t place = 0;
    if (!object && !gw__text_to_u64(segment, len, &place)) return 0;
    for (; token < end; token += token->size) {
        if (object ? gw__json_decodes_to(index->text + token->start,
                                         (size_t)(token->end - token->start), segment, len)
                   : place-- == 0) {
            *out = gw__json_index_slice(index, object ? token + 1 : token);
            return 1;
        }
    }
    return 0;
}

/* ---- look-ups: the walker or the index, with the same answers ---- */
static int gw__json_child(const gw_json *v, const char *segment, size_t len, gw_json *out)
{
    const gw__jsmn_token *token = gw__json_index_of(v);
    gw__json_walk walk;
    int there;
    if (token) return gw__json_index_child(v, token, segment, len, out);
    if (!gw__json_walk_begin(&walk, v)) return 0;
    there = gw__json_walk_child(&walk, segment, len, out);
    gw__json_index_walked(v, &walk);
    return there;
}

static int gw__json_find(const gw_json *v, const char *path, gw_json *out)
{
    gw_json at = gw__json_trimmed(v), child;
    size_t len;
    while (at.ptr && path && *path) {
        len = gw__json_segment_len(path);
        at = gw__json_child(&at, path, len, &child) ? child : gw__json_absent();
        path += path[len] ? len + 1 : len;
    }
    *out = at;
    return at.ptr != NULL;
}

/* Objects and arrays are told by their bracket, everything else is looked at whole. */
static uint32_t gw__json_kind(const gw_json *v)
{
    const char *at = v->ptr;
    if (!at) return GW_ABSENT;
    if (*at == '{') return GW_OBJECT;
    if (*at == '[') return GW_ARRAY;
    if (*at == '"')
        return gw__json_string_end(at, at + v->len) == at + v->len ? GW_STRING : GW_ABSENT;
    if (gw__json_bare_len(at, v->len) != v->len) return GW_ABSENT;
    return *at == 't' ? GW_TRUE : *at == 'f' ? GW_FALSE : *at == 'n' ? GW_NULL : GW_NUMBER;
}

static uint32_t gw__json_look(const gw_json *v, const char *path, gw_json *out)
{
    gw__json_find(v, path, out);
    return gw__json_kind(out);
}

GW_API uint32_t gw_kind_of(const gw_json *v, const char *path)
{
    gw_json found;
    return gw__json_look(v, path, &found);
}

/* out may be v itself. */
GW_API int32_t gw_get(const gw_json *v, const char *path, gw_json *out)
{
    gw_json found;
    int there = gw__json_find(v, path, &found);
    if (out) *out = found;
    return there;
}

/* The path behind its first segment, if that segment is this key; else NULL. */
static const char *gw__json_path_behind(const char *path, const gw_json *key)
{
    size_t len = gw__json_segment_len(path);
    if (!gw__json_key_is(key, path, len)) return NULL;
    return path[len] ? path + len + 1 : path + len;
}

/* One pass over the members. A path is decided by the first key that fits, even if the rest of the
 * path leads nowhere: until the end such an absent one is marked by its length. */
static void gw__json_pick_members(const gw_json *v, const char *const *paths, uint32_t count,
                                  gw_json *out)
{
    gw__json_walk walk;
    gw_json key, value;
    uint32_t i, left = count;
    if (!gw__json_walk_begin(&walk, v)) return;
    while (left > 0 && gw__json_walk_next(&walk, &key, &value)) {
        for (i = 0; i < count; i++) {
            const char *rest = out[i].len ? NULL : gw__json_path_behind(paths[i], &key);
            if (!rest) continue;
            left--;
            if (!gw__json_find(&value, rest, &out[i])) out[i].len = 1;
        }
    }
    gw__json_index_walked(v, &walk);
}

GW_API uint32_t gw_pick(const gw_json *v, const char *const *paths, uint32_t count, gw_json *out)
{
    gw_json container = gw__json_trimmed(v);
    int one_pass = gw__json_kind(&container) == GW_OBJECT && !gw__json_index_of(&container);
    uint32_t i, found = 0;
    for (i = 0; i < count; i++) {
        out[i] = gw__json_absent();
        if (!paths[i] || !*paths[i]) one_pass = 0;
    }
    if (one_pass) gw__json_pick_members(&container, paths, count, out);
    else for (i = 0; i < count; i++) gw__json_find(&container, paths[i], &out[i]);
    for (i = 0; i < count; i++) {
        if (out[i].ptr) found++;
        else out[i].len = 0;
    }
    return found;
}

/* Goes on behind the value that the last call gave. At the end, and where the text is broken, *key
 * and *value become absent: a further call would begin again. */
GW_API int32_t gw_next(const gw_json *container, gw_json *key, gw_json *value)
{
    gw_json in = gw__json_trimmed(container), found, name;
    gw__json_walk walk;
    int there = value && gw__json_walk_begin(&walk, &in);
    if (there && value->ptr) {
        uintptr_t behind = (uintptr_t)value->ptr + value->len - (uintptr_t)in.ptr;
        there = behind > 1 && behind <= in.len;     /* else it is a value of something else */
        if (there) walk.at = in.ptr + behind;
        walk.first = 0;
    }
    if (!there || !gw__json_walk_next(&walk, &name, &found)) {
        there = 0;
        name = found = gw__json_absent();
    }
    if (key) *key = name;
    if (value) *value = found;
    return there;
}

/* ---- values ---- */
#define GW__JSON_NUMERAL_MAX 64u    /* characters of a number that is written with escapes */

/* The characters of a number, or of a string, which may hold one; NULL: neither. */
static const char *gw__json_numeral(const gw_json *v, const char *path,
                                    char room[GW__JSON_NUMERAL_MAX], size_t *len)
{
    gw_json found;
    uint32_t kind = gw__json_look(v, path, &found);
    *len = found.len;
    if (kind == GW_NUMBER) return found.ptr;
    if (kind != GW_STRING) return NULL;
    *len = found.len - 2;
    if (!memchr(found.ptr, '\\', found.len)) return found.ptr + 1;
    *len = gw__json_decode_all(found.ptr + 1, found.len - 2, room, GW__JSON_NUMERAL_MAX);
    return *len <= GW__JSON_NUMERAL_MAX ? room : NULL;
}

GW_API uint64_t gw_u64(const gw_json *v, const char *path)
{
    char room[GW__JSON_NUMERAL_MAX];
    size_t len;
    const char *text = gw__json_numeral(v, path, room, &len);
    uint64_t value;
    return text && gw__text_to_u64(text, len, &value) ? value : 0;
}

GW_API int64_t gw_i64(const gw_json *v, const char *path)
{
    char room[GW__JSON_NUMERAL_MAX];
    size_t len;
    const char *text = gw__json_numeral(v, path, room, &len);
    size_t minus = text && len && text[0] == '-';
    uint64_t value;
    if (!text || !gw__text_to_u64(text + minus, len - minus, &value)) return 0;
    if (value > (uint64_t)INT64_MAX + minus) return 0;
    if (!minus || value == 0) return (int64_t)value;
    return -(int64_t)(value - 1) - 1;   /* -2^63 has no positive counterpart */
}

/* Significant digits that count one by one: the points half-way between two doubles have up to 767. Of
 * what follows only matters whether it is all zeros. */
#define GW__JSON_DIGITS_MAX 768

/* The exponent of a number, from its e on; bounded, as nothing beyond can be held. */
static int64_t gw__json_exponent(const char *text, size_t len)
{
    int64_t value = 0;
    size_t at = 1;
    int minus;
    if (len < 2) return 0;
    minus = text[1] == '-';
    if (!gw__json_is_digit(text[1])) at = 2;
    for (; at < len; at++)
        if (value < INT64_MAX / 100) value = value * 10 + (text[at] - '0');
    return minus ? -value : value;
}

/* strtod reads a comma where the locale has one. So it gets digits and an exponent and no point at
 * all: 12.5e3 is 125e2. It rounds to nearest, as ever; beyond a double's range lies infinity. */
static double gw__json_to_double(const char *text, size_t len)
{
    char plain[GW__JSON_DIGITS_MAX + 24];
    size_t at = 0, count = 0;
    int digits = 0, point = 0, more = 0;
    int64_t exponent = 0;
    if (text[0] == '-') plain[count++] = text[at++];
    for (; at < len && text[at] != 'e' && text[at] != 'E'; at++) {
        if (text[at] == '.') {
            point = 1;
            continue;
        }
        exponent -= point;
        if (text[at] == '0' && digits == 0) continue;   /* zeros in front say nothing */
        if (digits == GW__JSON_DIGITS_MAX) exponent++, more |= text[at] != '0';
        else plain[count++] = text[at], digits++;
    }
    if (more) plain[count++] = '1', exponent--;
    exponent += gw__json_exponent(text + at, len - at);
    exponent = exponent > 9999 ? 9999 : exponent < -9999 ? -9999 : exponent;
    gw__text_format(plain + count, sizeof plain - count, digits ? "e%d" : "0", (int)exponent);
    return strtod(plain, NULL);
}

GW_API double gw_f64(const gw_json *v, const char *path)
{
    char room[GW__JSON_NUMERAL_MAX];
    size_t len;
    const char *text = gw__json_numeral(v, path, room, &len);
    if (!text || len == 0 || (text[0] != '-' && !gw__json_is_digit(text[0]))) return 0;
    return gw__json_bare_len(text, len) == len ? gw__json_to_double(text, len) : 0;
}

GW_API int32_t gw_true(const gw_json *v, const char *path)
{
    return gw_kind_of(v, path) == GW_TRUE;
}

GW_API int32_t gw_is(const gw_json *v, const char *path, const char *text)
{
    gw_json found;
    if (!text || gw__json_look(v, path, &found) != GW_STRING) return 0;
    return gw__json_decodes_to(found.ptr + 1, found.len - 2, text, strlen(text));
}

/* A string decoded; a number, true or false as it is written; anything else is "" and 0. A \u0000
 * of the string is a 0 byte in the text, and counts; half a surrogate pair becomes U+FFFD. */
GW_API size_t gw_text(const gw_json *v, const char *path, char *out, size_t cap)
{
    gw_json found;
    uint32_t kind = gw__json_look(v, path, &found);
    size_t full = 0, room = cap ? cap - 1 : 0;
    if (kind == GW_STRING)
        full = gw__json_decode_all(found.ptr + 1, found.len - 2, out, room);
    else if (kind == GW_NUMBER || kind == GW_TRUE || kind == GW_FALSE)
        gw__json_put(out, room, &full, found.ptr, found.len);
    if (cap) out[full <= room ? full : gw__text_cut(out, room)] = 0;
    return full;
}

GW_API const char *gw_plain(const gw_json *v, const char *path, size_t *len)
{
    gw_json found;
    int plain = gw__json_look(v, path, &found) == GW_STRING && !memchr(found.ptr, '\\', found.len);
    if (len) *len = plain ? found.len - 2 : 0;
    return plain ? found.ptr + 1 : NULL;
}

/* ---- writing ---- */
/* Length of the UTF-8 character that begins here; 0: it is none. */
static size_t gw__json_character_len(const char *text, size_t len)
{
    gw__utf8 state;
    size_t at = 0;
    memset(&state, 0, sizeof state);
    while (at < len) {
        if (!gw__utf8_push(&state, (const uint8_t *)text + at, 1)) return 0;
        at++;
        if (gw__utf8_whole(&state)) return at;
    }
    return 0;
}

/* The next character of text as it stands in a JSON string; a byte that is not UTF-8 as U+FFFD. */
static size_t gw__json_escape(const char *text, size_t len, char out[8], size_t *used)
{
    static const char letters[] = "btn\0fr";        /* of bytes 8 to 13; 11 has none */
    uint8_t byte = (uint8_t)text[0];
    size_t character = gw__json_character_len(text, len);
    *used = character ? character : 1;
    if (character == 0) return (size_t)gw__json_put_utf8(out, 0xFFFD);
    if (byte >= 0x20 && byte != '"' && byte != '\\') {
        memcpy(out, text, character);
        return character;
    }
    if (byte < 0x20 && (byte < 8 || byte > 13 || letters[byte - 8] == 0))
        return gw__text_format(out, 8, "\\u%04x", (unsigned)byte);
    out[0] = '\\';
    out[1] = byte < 0x20 ? letters[byte - 8] : (char)byte;
    return 2;
}

/* All or nothing: half a JSON string is none, so what does not fit leaves out as "". */
GW_API size_t gw_quote(const char *text, size_t len, char *out, size_t cap)
{
    char piece[8];
    size_t full = 0, at = 0, used, count;
    gw__json_put(out, cap, &full, "\"", 1);
    for (; text && at < len; at += used) {
        count = gw__json_escape(text + at, len - at, piece, &used);
        gw__json_put(out, cap, &full, piece, count);
    }
    gw__json_put(out, cap, &full, "\"", 1);
    if (cap) out[full < cap ? full : 0] = 0;
    return full;
}

/* The writer appends to a buffer and sets the commas. After a failed append nothing more is
 * written, and failed stays: one look at the end is enough. */
typedef struct gw__json_writer {
    gw__buf *out;
    uint32_t comma, failed;
} gw__json_writer;

static void gw__json_write_begin(gw__json_writer *w, gw__buf *out)
{
    w->out = out;
    w->comma = w->failed = 0;
}

static void gw__json_write_bytes(gw__json_writer *w, const char *bytes, size_t len)
{
    if (!w->failed && !gw__buf_append(w->out, bytes, len)) w->failed = 1;
}

/* Before a key or a value: the comma, if something stands before it. */
static void gw__json_write_item(gw__json_writer *w, uint32_t comma_after)
{
    if (w->comma) gw__json_write_bytes(w, ",", 1);
    w->comma = comma_after;
}

static void gw__json_write_open(gw__json_writer *w, char bracket)
{
    gw__json_write_item(w, 0);
    gw__json_write_bytes(w, &bracket, 1);
}

static void gw__json_write_close(gw__json_writer *w, char bracket)
{
    gw__json_write_bytes(w, &bracket, 1);
    w->comma = 1;
}

static void gw__json_write_text(gw__json_writer *w, const char *text, size_t len)
{
    char piece[8];
    size_t at = 0, used, count;
    gw__json_write_item(w, 1);
    gw__json_write_bytes(w, "\"", 1);
    for (; at < len; at += used) {
        count = gw__json_escape(text + at, len - at, piece, &used);
        gw__json_write_bytes(w, piece, count);
    }
    gw__json_write_bytes(w, "\"", 1);
}

static void gw__json_write_key(gw__json_writer *w, const char *key)
{
    gw__json_write_text(w, key, strlen(key));
    gw__json_write_bytes(w, ":", 1);
    w->comma = 0;
}

static void gw__json_write_raw(gw__json_writer *w, const char *json, size_t len)
{
    gw__json_write_item(w, 1);
    gw__json_write_bytes(w, json, len);
}

static void gw__json_write_u64(gw__json_writer *w, uint64_t value)
{
    char digits[24];
    size_t at = sizeof digits;
    do digits[--at] = (char)('0' + value % 10); while ((value /= 10) != 0);
    gw__json_write_raw(w, digits + at, sizeof digits - at);
}

static void gw__json_write_i64(gw__json_writer *w, int64_t value)
{
    char digits[24];
    gw__json_write_raw(w, digits, gw__text_format(digits, sizeof digits, "%lld", (long long)value));
}

/* Snowflakes travel as strings: most readers hold numbers as double, which has 53 bits. */
static void gw__json_write_id(gw__json_writer *w, uint64_t snowflake)
{
    char digits[24];
    gw__json_write_text(w, digits, gw__text_format(digits, sizeof digits, "%llu",
                                                   (unsigned long long)snowflake));
}

static void gw__json_write_true(gw__json_writer *w, int value)
{
    gw__json_write_raw(w, value ? "true" : "false", value ? 4 : 5);
}

static void gw__json_write_null(gw__json_writer *w)
{
    gw__json_write_raw(w, "null", 4);
}

/* ---- secrets: the values of these keys, wherever they stand, do not belong in a trace ----
 * The bot's token, and those of interactions, webhooks and voice servers; ids of Gateway and voice
 * sessions. */
static int gw__json_is_secret_key(const char *key, size_t len)
{
    return gw__json_decodes_to(key + 1, len - 2, "token", 5) ||
           gw__json_decodes_to(key + 1, len - 2, "session_id", 10);
}

/* The string value that follows a key; NULL: none does. */
static const char *gw__json_string_behind(const char *key_end, const char *end)
{
    const char *at = gw__json_space_end(key_end, end);
    if (at == end || *at != ':') return NULL;
    at = gw__json_space_end(at + 1, end);
    return at < end && *at == '"' ? at : NULL;
}

/* Appends the text with "***" in their place. Behind a string that does not end nothing is known,
 * so nothing is shown. */
static int gw__json_redact(gw__buf *out, const char *text, size_t len)
{
    const char *end = text + len, *from = text, *at = text, *key, *value;
    while ((key = (const char *)memchr(at, '"', (size_t)(end - at))) != NULL) {
        at = gw__json_string_end(key, end);
        if (!at) return gw__buf_append(out, from, (size_t)(key - from));
        value = gw__json_is_secret_key(key, (size_t)(at - key)) ? gw__json_string_behind(at, end)
            : NULL;
        if (!value) continue;
        if (!gw__buf_append(out, from, (size_t)(value - from)) ||
            !gw__buf_append(out, "\"***\"", 5))
            return 0;
        from = at = gw__json_string_end(value, end);
        if (!at) return 1;
    }
    return gw__buf_append(out, from, (size_t)(end - from));
}

/* ==========================================================================
 * >> room: session -- the Gateway protocol as decisions: what came in, what is to be done.
 *    Knows:  opcodes, the two sequence numbers, heartbeats, what each end of a connection means,
 *            what Identify, Resume and Heartbeat look like.
 *    Not:    sockets, the clock (time comes in), who carries a decision out.
 * ========================================================================== */

/* Discord docs, "Gateway Opcodes". */
enum {
    GW__OP_DISPATCH = 0,
    GW__OP_HEARTBEAT = 1,
    GW__OP_IDENTIFY = 2,
    GW__OP_PRESENCE = 3,
    GW__OP_VOICE_STATE = 4,
    GW__OP_RESUME = 6,
    GW__OP_RECONNECT = 7,
    GW__OP_MEMBERS = 8,
    GW__OP_INVALID_SESSION = 9,
    GW__OP_HELLO = 10,
    GW__OP_HEARTBEAT_ACK = 11,
    GW__OP_SOUNDS = 31,
    GW__OP_CHANNEL_INFO = 43
};

#define GW__SESSION_ID_MAX 100u
#define GW__RESUME_TRIES 3u                 /* Resumes that brought no RESUMED, then Identify */
#define GW__ASKED_PATIENCE 2u               /* connections that may end with op 7 before Hello */
#define GW__BACKOFF_CAP_MS 60000u
#define GW__LONG_LIFE_MS 30000u             /* of a connection: then its end is nobody's loop */
#define GW__RETRY_AFTER_MAX_MS 3600000u
#define GW__INTERVAL_MIN_MS 1000u  /* of Hello: a server cannot make us beat all the time ... */
#define GW__INTERVAL_MAX_MS 600000u         /* ... or never */

/* ---- every end of a connection is one row: reason, detail, next, wait from..to in ms, advice
 * ---- The detail is the close code, the HTTP status, or one of the GW__INVALID_... below;
 * GW__ANY fits every other. Source: Discord docs, "Gateway Close Event Codes", "Invalid
 * Session", "Reconnect". */
#define GW__ANY (-1)
enum { GW__INVALID_FALSE, GW__INVALID_TRUE, GW__INVALID_AFTER_IDENTIFY };

#define GW__ENDINGS(X) \
    X(CLOSE_CODE, 4000, RESUME,   0, 0, "Discord had an internal error") \
    X(CLOSE_CODE, 4001, RESUME,   0, 0, \
      "a payload had an opcode or a body that Discord does not know") \
    X(CLOSE_CODE, 4002, RESUME,   0, 0, "a payload was invalid, or larger than 4,096 bytes") \
    X(CLOSE_CODE, 4003, IDENTIFY, 0, 0, \
      "the session was not known any more, or something was sent before identifying") \
    X(CLOSE_CODE, 4004, FATAL,    0, 0, \
      "the bot token is wrong or was reset: get a new one from the Developer Portal") \
    X(CLOSE_CODE, 4005, RESUME,   0, 0, "Identify was sent twice on one connection") \
    X(CLOSE_CODE, 4006, IDENTIFY, 0, 0, "the session is no longer valid; a new one is started") \
    X(CLOSE_CODE, 4007, IDENTIFY, 0, 0, \
      "Resume used a sequence number that Discord rejects; a new session is started") \
    X(CLOSE_CODE, 4008, RESUME, 60000, 61000, "too many payloads were sent (120 in 60 s)") \
    X(CLOSE_CODE, 4009, IDENTIFY, 0, 0, "the session timed out; a new one is started") \
    X(CLOSE_CODE, 4010, STOP,     0, 0, \
      "the shard id or the shard count is not valid for this bot") \
    X(CLOSE_CODE, 4011, FATAL,    0, 0, \
      "the bot is in too many guilds for so few shards: at most 2,500 guilds a shard") \
    X(CLOSE_CODE, 4012, FATAL,    0, 0, \
      "the Gateway does not know the API version in the URL: update this library") \
    X(CLOSE_CODE, 4013, FATAL,    0, 0, "config.intents has bits that are not defined") \
    X(CLOSE_CODE, 4014, FATAL,    0, 0, \
      "an intent is privileged: turn it on in the Developer Portal (Bot page), or drop it") \
    X(CLOSE_CODE, 1000, RESUME,   0, 0, "the server closed the connection") \
    X(CLOSE_CODE, 1001, RESUME,   0, 0, "the server went away") \
    X(CLOSE_CODE, GW__ANY, RESUME, 0, 0, \
      "the server, or a proxy on the way, closed the connection") \
    X(ASKED,      GW__ANY, RESUME, 0, 0, "Discord asked for a new connection (op 7)") \
    X(INVALID_SESSION, GW__INVALID_TRUE, RESUME, 0, 0, "Discord asked to resume (op 9, true)") \
    X(INVALID_SESSION, GW__INVALID_AFTER_IDENTIFY, IDENTIFY, 5000, 6000, \
      "Identify was refused: usually too many at a time with this token") \
    X(INVALID_SESSION, GW__ANY, IDENTIFY, 1000, 5000, \
      "the session cannot be resumed; a new one is started") \
    X(CONFIG,     GW__ANY, FATAL,  0, 0, "mend the config and open a new client") \
    X(SLEPT,      GW__ANY, RESUME, 0, 0, "this machine was suspended") \
    X(NO_ACK,     GW__ANY, RESUME, 0, 0, "the connection is dead: a heartbeat was not answered") \
    X(TIMEOUT,    GW__ANY, RESUME, 0, 0, \
      "is this machine online? https://discordstatus.com tells of outages") \
    X(PROTOCOL,   GW__ANY, RESUME, 0, 0, "what came in breaks the protocol") \
    X(BY_CALLER,  GW__ANY, STOP,   0, 0, "by the caller") \
    X(LOST,       GW__ANY, RESUME, 0, 0, "the line broke; the server keeps the session for some minutes") \
    X(RESOLVE,    GW__ANY, RESUME, 0, 0, "is this machine online, and its DNS right?") \
    X(CONNECT,    GW__ANY, RESUME, 0, 0, "is this machine online? does a firewall let it out?") \
    X(PROXY,      GW__ANY, RESUME, 0, 0, "is config.proxy right?") \
    X(HTTP,       GW__ANY, RESUME, 0, 0, "https://discordstatus.com tells of outages") \
    X(MEMORY,     GW__ANY, RESUME, 0, 0, "give it more memory, or lower config.max_payload") \
    X(BUDGET,     GW__ANY, RESUME, 0, 0, "it waits until an Identify may be spent") \
    X(TLS_EXPIRED,   GW__ANY, RESUME, 0, 0, "is the clock of this device right?") \
    X(TLS_NOT_YET,   GW__ANY, RESUME, 0, 0, "set the clock, config.unix_time or unix_time_floor") \
    X(TLS_NAME,      GW__ANY, RESUME, 0, 0, "is config.url right? does a portal or proxy answer for the host?") \
    X(TLS_UNTRUSTED, GW__ANY, RESUME, 0, 0, "check the clock, and which authorities are trusted") \
    X(TLS_INVALID,   GW__ANY, RESUME, 0, 0, "a proxy on the way may make its own certificates") \
    X(TLS_VERSION,   GW__ANY, RESUME, 0, 0, "the server has to speak TLS 1.2") \
    X(TLS_ALERT,     GW__ANY, RESUME, 0, 0, "the server refused the handshake, or ended the connection") \
    X(TLS_MAC,       GW__ANY, RESUME, 0, 0, "something on the way changes what is sent") \
    X(TLS_PROTOCOL,  GW__ANY, RESUME, 0, 0, "is it a TLS server? does a proxy answer in its place?") \
    X(TLS_OTHER,     GW__ANY, RESUME, 0, 0, "look at the sentence before this one") \
    X(NONE,       GW__ANY, RESUME, 0, 0, "")

/* Of TLS, DNS, TCP and HTTP the fault's own sentence knows host, time and number. */
#define GW__IS_SAID(reason) \
    (((reason) >= GW_REASON_MEMORY && (reason) <= GW_REASON_HTTP) || (reason) == GW_REASON_LOST || \
     ((reason) >= GW_REASON_TLS_INVALID && (reason) <= GW_REASON_TLS_PROTOCOL))

typedef enum gw__next {
    GW__NEXT_RESUME,
    GW__NEXT_IDENTIFY,
    GW__NEXT_STOP,
    GW__NEXT_FATAL
} gw__next;

typedef struct gw__ending {
    uint32_t reason;
    int32_t detail;
    gw__next next;
    uint32_t wait_from_ms, wait_to_ms;
    uint32_t is_said;                   /* the fault's own sentence says it, and more exactly */
    const char *advice;
} gw__ending;

/* The first row that fits; the last one fits all. */
static const gw__ending *gw__ending_of(uint32_t reason, int32_t detail)
{
#define GW__ENDING(name, detail_, next_, from_ms, to_ms, text) \
    { GW_REASON_##name, detail_, GW__NEXT_##next_, from_ms, to_ms, \
      GW__IS_SAID(GW_REASON_##name), text },
    static const gw__ending rows[] = { GW__ENDINGS(GW__ENDING) };
#undef GW__ENDING
    const gw__ending *row = rows;
    while (row->reason != GW_REASON_NONE &&
           (row->reason != reason || (row->detail != detail && row->detail != GW__ANY))) row++;
    return row;
}

/* ---- one session, and the connection that carries it ---- */
typedef struct gw__session {
    uint32_t number;                    /* grows with each new session of the shard */
    char id[GW__SESSION_ID_MAX];        /* "": none, so the next handshake is an Identify */
    /* READY has come, or it was restored; with or without an id */
    uint32_t begun;
    gw__url resume_url;
    uint64_t received_seq, taken_seq;   /* the last one that came in; that the caller has taken */
    uint32_t has_received, has_taken;
    uint32_t resumes_unanswered;        /* Resumes sent since the last RESUMED */
    uint32_t attempts;                  /* connections tried since the last READY or RESUMED */
    uint32_t fruitless;                 /* times in a row that ready came and no new event */
    uint32_t short_lived;               /* sessions in a row that were lost within a minute */
    uint64_t ready_ms;                  /* when this one began */
    uint64_t live_ms;                   /* when this connection became ready; 0: it has not */
    uint32_t at_cached_url;             /* a connect to the resume host failed: try the other one */
    /* what belongs to one connection, and is reset with it in one place */
    uint32_t interval_ms;               /* 0: no Hello yet */
    uint32_t has_shaken;                /* Identify or Resume was sent */
    uint32_t identified;                /* Identify was sent, READY has not come */
    uint32_t replaying;                 /* between Resume and RESUMED */
    uint32_t beat_unanswered;           /* a regular heartbeat; an asked-for one kills nobody */
    uint32_t ack_awaited;               /* of any heartbeat, for the latency */
    uint64_t next_beat_ms;
    uint64_t suspect_ms;                /* since when the connection may be dead; 0: it is not */
    uint64_t beat_sent_us;
    uint64_t heartbeats, acks, latency_us, latency_sum_us;
} gw__session;

typedef enum gw__act {
    GW__ACT_NOTHING,
    GW__ACT_DELIVER,
    GW__ACT_IDENTIFY,
    GW__ACT_RESUME,
    GW__ACT_BEAT,
    GW__ACT_READY,
    GW__ACT_RESUMED,
    GW__ACT_END /* the connection; the fault says why */
} gw__act;

typedef struct gw__payload {            /* one message from the Gateway, read as far as needed */
    uint64_t op, seq;
    uint32_t has_op, has_seq;
    uint32_t type;                      /* of a dispatch */
    uint32_t d_is_lost;                 /* there was no memory for it, or it was too large */
    gw_json d;
} gw__payload;

static int gw__session_can_resume(const gw__session *session)
{
    return session->id[0] != 0 && session->has_received &&
           session->resumes_unanswered < GW__RESUME_TRIES;
}

static void gw__session_begin_connection(gw__session *session)
{
    session->interval_ms = 0;
    session->has_shaken = session->identified = session->replaying = 0;
    session->beat_unanswered = session->ack_awaited = 0;
    session->next_beat_ms = GW__NEVER;
    session->suspect_ms = session->live_ms = 0;
    session->attempts++;
}

static void gw__session_forget(gw__session *session)
{
    gw__mem_wipe(session->id, sizeof session->id);
    memset(&session->resume_url, 0, sizeof session->resume_url);
    session->received_seq = session->taken_seq = 0;
    session->has_received = session->has_taken = 0;
    session->resumes_unanswered = 0;
    session->at_cached_url = 0;
    session->begun = 0;
}

/* READY and RESUMED both mean ready, and only they reset the backoff. */
static void gw__session_on_ready(gw__session *session)
{
    session->resumes_unanswered = session->attempts = session->at_cached_url = 0;
    session->replaying = session->identified = 0;
    session->fruitless++;                   /* until an event comes */
}

/* A server that puts our token into what we keep and show does not get it kept. */
static int gw__session_holds(const char *text, const char *token)
{
    return strlen(token) >= GW__REDACT_FROM && strstr(text, token) != NULL;
}

/* A number of seconds with a fraction, as whole milliseconds, rounded up. Bounded: a server cannot
 * make us wait for ever. */
static uint32_t gw__retry_after_ms(double seconds)
{
    if (!(seconds > 0)) return 0;
    if (seconds * 1000.0 >= GW__RETRY_AFTER_MAX_MS) return GW__RETRY_AFTER_MAX_MS;
    return (uint32_t)(seconds * 1000.0) + ((uint32_t)(seconds * 1000.0) < seconds * 1000.0);
}

GW_API int32_t gw_read_ready(const gw_json *d, gw_ready *out)
{
    static const char *const paths[] = { "session_id", "resume_gateway_url", "user", "guilds", "v",
                                         "shard", "application.id" };
    gw_json found[GW__COUNT(paths)];
    memset(out, 0, sizeof *out);
    if (gw_kind_of(d, NULL) != GW_OBJECT) return 0;
    gw_pick(d, paths, GW__COUNT(paths), found);
    out->session_id = found[0];
    out->resume_gateway_url = found[1];
    out->user = found[2];
    out->guilds = found[3];
    out->user_id = gw_u64(&found[2], "id");
    out->application_id = gw_u64(&found[6], NULL);
    out->version = (uint32_t)GW__MIN(gw_u64(&found[4], NULL), UINT32_MAX);
    out->shard = (int32_t)GW__MIN(gw_u64(&found[5], "0"), INT32_MAX);
    out->shard_total = (int32_t)GW__MIN(gw_u64(&found[5], "1"), INT32_MAX);
    return 1;
}

GW_API int32_t gw_read_rate_limited(const gw_json *d, gw_rate_limited *out)
{
    double seconds = gw_f64(d, "retry_after");
    memset(out, 0, sizeof *out);
    if (gw_kind_of(d, "opcode") != GW_NUMBER || gw_kind_of(d, "retry_after") != GW_NUMBER) return 0;
    out->opcode = (uint32_t)GW__MIN(gw_u64(d, "opcode"), UINT32_MAX);
    out->retry_after_ms = gw__retry_after_ms(seconds);
    out->guild_id = gw_u64(d, "meta.guild_id");
    gw_get(d, "meta.nonce", &out->nonce);
    return 1;
}

/* Takes what READY says of the session; a resume URL of a foreign host is refused, the cached one
 * takes its place. */
static void gw__session_take_ready(gw__session *session, const gw_ready *ready,
                                   const gw__url *cached,
                                   const char *token, gw__fault *refused)
{
    char text[GW__HOST_MAX + GW__PATH_MAX], target[GW__PATH_MAX];
    size_t len = gw_text(&ready->resume_gateway_url, NULL, text, sizeof text);
    memset(&session->resume_url, 0, sizeof session->resume_url);
    if (gw_text(&ready->session_id, NULL, session->id, sizeof session->id) >= sizeof session->id ||
        gw__session_holds(session->id, token)) session->id[0] = 0;
    if (len == 0 || len >= sizeof text || gw__session_holds(text, token))
        gw__fault_set(refused, GW_REASON_PROTOCOL, 0, "READY brought no usable resume_gateway_url");
    else if (gw__url_parse(&session->resume_url, text, len, refused) &&
             gw__url_may_replace(cached, &session->resume_url, refused) &&
             gw__url_gateway_target(&session->resume_url, NULL, target, sizeof target)) return;
    session->resume_url = *cached;
}

static gw__act gw__session_end(gw__fault *fault, uint32_t reason, const char *text)
{
    gw__fault_set(fault, reason, 0, "%s", text);
    return GW__ACT_END;
}

static gw__act gw__session_on_hello(gw__session *session, const gw_json *d, uint64_t now_ms,
                                    uint32_t random, gw__fault *fault)
{
    uint64_t interval_ms;
    if (session->interval_ms) return GW__ACT_NOTHING;           /* a second Hello changes nothing */
    interval_ms = gw_u64(d, "heartbeat_interval");
    if (interval_ms == 0)
        return gw__session_end(fault, GW_REASON_PROTOCOL,
                               "Hello (op 10) has no heartbeat_interval");
    interval_ms = GW__MAX(GW__INTERVAL_MIN_MS, GW__MIN(interval_ms, GW__INTERVAL_MAX_MS));
    session->interval_ms = (uint32_t)interval_ms;
    session->next_beat_ms = now_ms + interval_ms * random / UINT32_MAX;     /* jitter in [0,1] */
    session->at_cached_url = 0;                                 /* the host answers */
    return gw__session_can_resume(session) ? GW__ACT_RESUME : GW__ACT_IDENTIFY;
}

static gw__act gw__session_on_ack(gw__session *session, uint64_t now_us)
{
    session->beat_unanswered = 0;
    session->suspect_ms = 0;
    /* one that nobody waits for says nothing of latency */
    if (!session->ack_awaited) return GW__ACT_NOTHING;
    session->ack_awaited = 0;
    session->acks++;
    session->latency_us = now_us - session->beat_sent_us;
    session->latency_sum_us += session->latency_us;
    return GW__ACT_NOTHING;
}

/* READY counts after our Identify and RESUMED after our Resume; unasked they are events like
 * others. */
static gw__act gw__session_on_dispatch(gw__session *session, const gw__payload *payload)
{
    int begins = payload->type == GW_READY && session->identified;
    int ends_replay = payload->type == GW_RESUMED && session->replaying;
    /* a Resume brings what it may have been */
    if (!session->has_shaken) return GW__ACT_NOTHING;
    if (session->replaying && !ends_replay && payload->has_seq && session->has_received &&
        payload->seq <= session->received_seq) return GW__ACT_NOTHING;      /* we have it already */
    if (payload->has_seq &&
        (begins || !session->has_received || payload->seq > session->received_seq)) {
        session->received_seq = payload->seq;
        session->has_received = 1;
        /* a line that is cut often, but brings something each time, is resumed at once */
        if (!begins && !ends_replay) session->fruitless = 0;
    }
    if (begins) return GW__ACT_READY;
    if (ends_replay) return GW__ACT_RESUMED;
    return GW__ACT_DELIVER;
}

static gw__act gw__session_on_invalid(gw__session *session, const gw__payload *payload,
                                      gw__fault *fault, int32_t *detail)
{
    /* where we could not keep what it says, a Resume will tell whether the session lives */
    int may_resume = gw_true(&payload->d, NULL) || (payload->d_is_lost && !session->identified);
    *detail = may_resume ? GW__INVALID_TRUE
              : session->identified ? GW__INVALID_AFTER_IDENTIFY
                                    : GW__INVALID_FALSE;
    return gw__session_end(fault, GW_REASON_INVALID_SESSION,
                           "Discord says that the session is invalid (op 9)");
}

/* The one dispatcher by opcode; every opcode is legal in every state. */
static gw__act gw__session_on_payload(gw__session *session, const gw__payload *payload,
                                      uint64_t now_us, uint32_t random, gw__fault *fault,
                                      int32_t *detail)
{
    if (!payload->has_op) return gw__session_end(fault, GW_REASON_PROTOCOL, "a payload has no op");
    switch (payload->op) {
    case GW__OP_DISPATCH:        return gw__session_on_dispatch(session, payload);
    case GW__OP_HEARTBEAT:       return GW__ACT_BEAT;
    case GW__OP_RECONNECT:
        return gw__session_end(fault, GW_REASON_ASKED, "the server asked to reconnect");
    case GW__OP_INVALID_SESSION: return gw__session_on_invalid(session, payload, fault, detail);
    case GW__OP_HELLO:
        return gw__session_on_hello(session, &payload->d, now_us / 1000u, random, fault);
    case GW__OP_HEARTBEAT_ACK:   return gw__session_on_ack(session, now_us);
    /* what Discord adds tomorrow is no error */
    default:                     return GW__ACT_NOTHING;
    }
}

/* A regular heartbeat is due. `drained`: the socket was read until it would block, so that an
 * answer would have been seen. Then an unanswered beat means a dead connection (Discord docs,
 * "Sending Heartbeats"); else we only suspect. */
static gw__act gw__session_on_beat_due(gw__session *session, int drained, uint64_t now_ms,
                                       gw__fault *fault)
{
    if (session->beat_unanswered && drained)
        return gw__session_end(fault, GW_REASON_NO_ACK,
                               "no answer to the last heartbeat when the next was due");
    if (session->beat_unanswered && session->suspect_ms == 0)
        session->suspect_ms = session->next_beat_ms;
    session->next_beat_ms += session->interval_ms;
    if (session->next_beat_ms <= now_ms) session->next_beat_ms = now_ms + session->interval_ms;
    session->beat_unanswered = 1;
    return GW__ACT_BEAT;
}

/* Asked before a shard sleeps: is one that was suspected dead by now? */
static gw__act gw__session_on_suspicion(const gw__session *session, int drained, gw__fault *fault)
{
    if (session->suspect_ms == 0 || !drained) return GW__ACT_NOTHING;
    return gw__session_end(fault, GW_REASON_NO_ACK,
                           "a heartbeat was not answered, and all that had come was read");
}

static void gw__session_beat_sent(gw__session *session, uint64_t now_us)
{
    session->heartbeats++;
    if (session->ack_awaited) return;       /* the older one is answered first */
    session->ack_awaited = 1;
    session->beat_sent_us = now_us;
}

/* 1, 2, 4 ... 60 s for n of 1, 2, 3 ...; 0 for none. */
static uint32_t gw__backoff_ms(uint32_t n)
{
    return n ? GW__MIN(500u << GW__MIN(n, 7u), GW__BACKOFF_CAP_MS) : 0;
}

/* What comes next, and after how long: Resume at once, then with backoff and full jitter. A server
 * that lets us in and out again makes no hot loop either: connections that bring nothing count
 * after the third, and sessions that do not live a minute each count. */
static gw__next gw__session_after(gw__session *session, const gw__ending *ending, uint64_t now_ms,
                                  uint32_t random, uint32_t *wait_ms)
{
    uint32_t n, spread_ms = ending->wait_to_ms - ending->wait_from_ms, row_ms;
    gw__next next = ending->next;
    if (next == GW__NEXT_RESUME && !gw__session_can_resume(session)) next = GW__NEXT_IDENTIFY;
    if (session->live_ms && now_ms - session->live_ms >= GW__LONG_LIFE_MS) session->fruitless = 0;
    n = GW__MAX(session->attempts, session->fruitless > 3 ? session->fruitless - 3 : 0);
    if (next == GW__NEXT_IDENTIFY && session->begun) {
        session->short_lived = now_ms - session->ready_ms < 60000 ? session->short_lived + 1 : 0;
        n = GW__MAX(n, session->short_lived);
    }
    row_ms = ending->wait_from_ms + (uint32_t)((uint64_t)spread_ms * random / UINT32_MAX);
    *wait_ms = (uint32_t)((uint64_t)gw__backoff_ms(n) * random / UINT32_MAX);
    *wait_ms = GW__MAX(*wait_ms, row_ms);
    return next;
}

/* Where to connect. Identify goes to the cached URL; a Resume to the session's own, and to the
 * cached one every other time that a connect failed. */
static const gw__url *gw__session_url(const gw__session *session, const gw__url *cached)
{
    if (!gw__session_can_resume(session) || session->at_cached_url || !session->resume_url.host[0])
        return cached;
    return &session->resume_url;
}

/* What a 429 asks for: the body's retry_after is a number of seconds with a fraction, the header's
 * a whole one. Bounded: a server cannot make us wait for ever. */
static uint32_t gw__http_wait_ms(const gw__http *http)
{
    gw_json body;
    double seconds;
    uint64_t wait_ms = http->retry_after_ms;
    memset(&body, 0, sizeof body);
    body.ptr = http->body.bytes ? (const char *)http->body.bytes + http->body.begin : "";
    body.len = gw__buf_len(&http->body);
    seconds = http->status == 429 ? gw_f64(&body, "retry_after") : 0;
    return (uint32_t)GW__MIN(GW__MAX(wait_ms, gw__retry_after_ms(seconds)), GW__RETRY_AFTER_MAX_MS);
}

/* ---- what we say ---- */
typedef struct gw__identity {               /* of the bot, the same for all shards */
    const char *token;
    uint32_t intents, large_threshold;
    int32_t shard_total;                    /* 0: unsharded */
    /* JSON, of all shards that have none of their own; or NULL */
    const char *presence;
} gw__identity;

static void gw__json_write_property(gw__json_writer *writer, const char *key, const char *text)
{
    gw__json_write_key(writer, key);
    gw__json_write_text(writer, text, strlen(text));
}

static void gw__json_write_number(gw__json_writer *writer, const char *key, uint64_t value)
{
    gw__json_write_key(writer, key);
    gw__json_write_u64(writer, value);
}

static void gw__payload_begin(gw__json_writer *writer, gw__buf *out, uint32_t op)
{
    gw__json_write_begin(writer, out);
    gw__json_write_open(writer, '{');
    gw__json_write_number(writer, "op", op);
    gw__json_write_key(writer, "d");
}

static int gw__payload_end(gw__json_writer *writer)
{
    gw__json_write_close(writer, '}');
    return !writer->failed;
}

/* Discord docs, "Identify". presence: JSON, or NULL. */
static int gw__session_write_identify(gw__buf *out, const gw__identity *identity, int32_t shard,
                                      const char *presence)
{
    gw__json_writer writer;
    gw__payload_begin(&writer, out, GW__OP_IDENTIFY);
    gw__json_write_open(&writer, '{');
    gw__json_write_property(&writer, "token", identity->token);
    gw__json_write_number(&writer, "intents", identity->intents);
    gw__json_write_key(&writer, "properties");
    gw__json_write_open(&writer, '{');
    gw__json_write_property(&writer, "os", gw__sys_name());
    gw__json_write_property(&writer, "browser", "discord_gateway.h");
    gw__json_write_property(&writer, "device", "discord_gateway.h");
    gw__json_write_close(&writer, '}');
    if (identity->large_threshold)
        gw__json_write_number(&writer, "large_threshold", identity->large_threshold);
    if (identity->shard_total) {
        gw__json_write_key(&writer, "shard");           /* the key is singular */
        gw__json_write_open(&writer, '[');
        gw__json_write_i64(&writer, shard);
        gw__json_write_i64(&writer, identity->shard_total);
        gw__json_write_close(&writer, ']');
    }
    if (presence) {
        gw__json_write_key(&writer, "presence");
        gw__json_write_raw(&writer, presence, strlen(presence));
    }
    gw__json_write_close(&writer, '}');
    return gw__payload_end(&writer);
}

static int gw__session_write_presence(gw__buf *out, const char *presence)
{
    gw__json_writer writer;
    gw__payload_begin(&writer, out, GW__OP_PRESENCE);
    gw__json_write_raw(&writer, presence, strlen(presence));
    return gw__payload_end(&writer);
}

/* Discord docs, "Resume": the key is seq, not s. */
static int gw__session_write_resume(gw__buf *out, const gw__session *session, const char *token)
{
    gw__json_writer writer;
    gw__payload_begin(&writer, out, GW__OP_RESUME);
    gw__json_write_open(&writer, '{');
    gw__json_write_property(&writer, "token", token);
    gw__json_write_property(&writer, "session_id", session->id);
    gw__json_write_number(&writer, "seq", session->received_seq);
    gw__json_write_close(&writer, '}');
    return gw__payload_end(&writer);
}

static int gw__session_write_heartbeat(gw__buf *out, const gw__session *session)
{
    gw__json_writer writer;
    gw__payload_begin(&writer, out, GW__OP_HEARTBEAT);
    if (session->has_received) gw__json_write_u64(&writer, session->received_seq);
    else gw__json_write_null(&writer);
    return gw__payload_end(&writer);
}

/* ---- presence, as Identify and op 3 carry it (Discord docs, "Update Presence") ---- */
#define GW__ACTIVITY_STREAMING 1u
#define GW__ACTIVITY_TYPES 6u

static int gw__presence_status_is_known(const char *status)
{
    static const char *const known[] = { "online", "dnd", "idle", "invisible", "offline" };
    size_t i;
    for (i = 0; i < GW__COUNT(known); i++) if (strcmp(status, known[i]) == 0) return 1;
    return 0;
}

/* NULL: it may be sent; else what is wrong with it. */
static const char *gw__presence_fault(const gw_presence *presence)
{
    uint32_t i;
    if (presence->status && !gw__presence_status_is_known(presence->status))
        return "presence.status is none of online, dnd, idle, invisible, offline";
    if (presence->activity_count && !presence->activities)
        return "presence.activities is NULL, activity_count is not 0";
    for (i = 0; i < presence->activity_count; i++) {
        const gw_activity *activity = &presence->activities[i];
        if (!activity->name || !activity->name[0]) return "an activity has no name";
        if (!gw__utf8_is(activity->name, strlen(activity->name)))
            return "an activity's name is not UTF-8";
        if (activity->state && !gw__utf8_is(activity->state, strlen(activity->state)))
            return "an activity's state is not UTF-8";
        if (activity->url && !gw__utf8_is(activity->url, strlen(activity->url)))
            return "an activity's url is not UTF-8";
        if (activity->type >= GW__ACTIVITY_TYPES) return "an activity's type is none of 0 to 5";
    }
    return NULL;
}

static void gw__presence_write(gw__json_writer *writer, const gw_presence *presence)
{
    uint32_t i;
    gw__json_write_open(writer, '{');
    gw__json_write_key(writer, "since");
    if (presence->since_ms) gw__json_write_u64(writer, presence->since_ms);
    else gw__json_write_null(writer);
    gw__json_write_key(writer, "activities");
    gw__json_write_open(writer, '[');
    for (i = 0; i < presence->activity_count; i++) {
        const gw_activity *activity = &presence->activities[i];
        gw__json_write_open(writer, '{');
        gw__json_write_property(writer, "name", activity->name);
        gw__json_write_number(writer, "type", activity->type);
        if (activity->url) gw__json_write_property(writer, "url", activity->url);
        if (activity->state) gw__json_write_property(writer, "state", activity->state);
        gw__json_write_close(writer, '}');
    }
    gw__json_write_close(writer, ']');
    gw__json_write_property(writer, "status", presence->status ? presence->status : "online");
    gw__json_write_key(writer, "afk");
    gw__json_write_true(writer, presence->afk != 0);
    gw__json_write_close(writer, '}');
}

/* ---- the bodies of other commands: d, or what is wrong with the caller's request ---- */

/* Discord docs, "Update Voice State": to leave, the key stays and its value is null. */
static void gw__voice_state_write(gw__json_writer *writer, uint64_t guild_id, uint64_t channel_id,
                                  int mute, int deaf)
{
    gw__json_write_open(writer, '{');
    gw__json_write_key(writer, "guild_id");
    gw__json_write_id(writer, guild_id);
    gw__json_write_key(writer, "channel_id");
    if (channel_id) gw__json_write_id(writer, channel_id);
    else gw__json_write_null(writer);
    gw__json_write_key(writer, "self_mute");
    gw__json_write_true(writer, mute != 0);
    gw__json_write_key(writer, "self_deaf");
    gw__json_write_true(writer, deaf != 0);
    gw__json_write_close(writer, '}');
}

/* Discord docs, "Request Channel Info". */
static void gw__channel_info_write(gw__json_writer *writer, uint64_t guild_id, int status,
                                   int voice_start_time)
{
    gw__json_write_open(writer, '{');
    gw__json_write_key(writer, "guild_id");
    gw__json_write_id(writer, guild_id);
    gw__json_write_key(writer, "fields");
    gw__json_write_open(writer, '[');
    if (status) gw__json_write_text(writer, "status", 6);
    if (voice_start_time) gw__json_write_text(writer, "voice_start_time", 16);
    gw__json_write_close(writer, ']');
    gw__json_write_close(writer, '}');
}

/* Discord docs, "Request Guild Members". */
#define GW__MEMBERS_FEW 100u            /* by a prefix, or by ids */
#define GW__NONCE_MAX 32u               /* bytes; Discord ignores a longer one */

static int gw__members_is_whole_list(const gw_members *request)
{
    return request->query && !request->query[0] && request->limit == 0;
}

static const char *gw__members_ids_fault(const gw_members *request)
{
    uint32_t i;
    if (!request->user_ids || request->user_id_count == 0)
        return "members: neither query nor user_ids; a query of \"\" asks for all";
    if (request->user_id_count > GW__MEMBERS_FEW) return "members: at most 100 user_ids at once";
    for (i = 0; i < request->user_id_count; i++)
        if (request->user_ids[i] == 0) return "members: a user id is 0";
    return NULL;
}

/* NULL: it may be sent; else what is wrong with it. */
static const char *gw__members_fault(const gw_members *request, uint32_t intents)
{
    if (!request) return "members: the request is NULL";
    if (request->query && (request->user_ids || request->user_id_count))
        return "members: either query or user_ids, not both";
    if (request->nonce && strlen(request->nonce) > GW__NONCE_MAX)
        return "members: the nonce is longer than 32 bytes";
    if (request->nonce && !gw__utf8_is(request->nonce, strlen(request->nonce)))
        return "members: the nonce is not UTF-8";
    if (!request->query) return gw__members_ids_fault(request);
    if (!gw__utf8_is(request->query, strlen(request->query)))
        return "members: the query is not UTF-8";
    if (request->query[0] && request->limit > GW__MEMBERS_FEW)
        return "members: by a prefix at most 100 come; limit is higher";
    if (gw__members_is_whole_list(request) && !(intents & (uint32_t)GW_INTENT_GUILD_MEMBERS))
        return "members: the whole list needs GW_INTENT_GUILD_MEMBERS in config.intents";
    return NULL;
}

static void gw__members_write(gw__json_writer *writer, const gw_members *request)
{
    uint32_t i;
    gw__json_write_open(writer, '{');
    gw__json_write_key(writer, "guild_id");
    gw__json_write_id(writer, request->guild_id);
    if (request->query) {
        gw__json_write_property(writer, "query", request->query);
        gw__json_write_number(writer, "limit",
                              request->query[0] && !request->limit ? GW__MEMBERS_FEW
                                  : request->limit);
    } else {
        gw__json_write_key(writer, "user_ids");
        gw__json_write_open(writer, '[');
        for (i = 0; i < request->user_id_count; i++)
            gw__json_write_id(writer, request->user_ids[i]);
        gw__json_write_close(writer, ']');
    }
    if (request->presences) {
        gw__json_write_key(writer, "presences");
        gw__json_write_true(writer, 1);
    }
    if (request->nonce) gw__json_write_property(writer, "nonce", request->nonce);
    gw__json_write_close(writer, '}');
}

/* Is it the payload's own nonce? One that neither has is the same too. */
static int gw__members_nonce_is(const void *payload, size_t len, const gw_json *nonce)
{
    char ours[GW__NONCE_MAX + 1], theirs[GW__NONCE_MAX + 1];
    gw_json v;
    size_t ours_len, theirs_len;
    memset(&v, 0, sizeof v);
    v.ptr = (const char *)payload;
    v.len = len;
    ours_len = gw_text(&v, "d.nonce", ours, sizeof ours);
    theirs_len = gw_text(nonce, NULL, theirs, sizeof theirs);
    return ours_len == theirs_len && ours_len <= GW__NONCE_MAX &&
        memcmp(ours, theirs, ours_len) == 0;
}

/* ==========================================================================
 * >> room: send -- per shard: what waits to be sent, and when it may leave.
 *    Knows:  120 payloads in 60 s as a sliding window, the reserve for heartbeats, the queue, ages,
 *            the limits of single commands: presence, the whole list of a guild's members.
 *    Not:    what a payload looks like; how it gets onto the wire.
 *    Source: Discord docs, "Rate Limiting", "Request Guild Members", "Rate Limited".
 * ========================================================================== */

#define GW__SEND_WINDOW_MS 60000u
/* payloads in a window, heartbeats and handshake included */
#define GW__SEND_TOTAL 120u
#define GW__SEND_SHARE_MIN 110u         /* of them the caller's, however fast the heart beats */
#define GW__SEND_BYTES_MAX 4096u
#define GW__PRESENCE_WINDOW_MS 20000u
#define GW__PRESENCE_TOTAL 5u           /* in that window */
#define GW__WHOLE_LIST_MS 30000u        /* of one guild's members: once in so long */
#define GW__WHOLE_LISTS_MAX 64u         /* guilds whose last request is remembered */

/* A command from its queueing to its end. Most end when they leave; a request for members keeps its
 * place until its answer is complete. */
typedef struct gw__send_item {
    struct gw__send_item *next;         /* younger */
    gw_ticket ticket;
    uint32_t len;                       /* of the payload, which lies behind this struct */
    uint64_t queued_ms;
    uint64_t not_before_ms;             /* a limit of its own; 0: none */
    uint64_t guild_id;                  /* of a request for members; 0: it is none */
    uint32_t is_whole_list, retry;
    uint32_t is_asked;                  /* it has left, the answer is awaited */
    uint32_t chunks;                    /* ... of which so many have come */
    uint32_t dropped;                   /* enum gw_reason, to be told; then it goes */
} gw__send_item;

typedef struct gw__whole_list { uint64_t guild_id, free_ms; } gw__whole_list;

typedef struct gw__send {
    gw__mem *mem;
    gw__send_item *oldest, *youngest;
    uint32_t count, cap;
    uint32_t to_tell;                   /* of them dropped, which the caller has not heard */
    uint32_t max_age_ms;
    uint64_t sent_ms[GW__SEND_TOTAL];   /* a ring: when the last payloads left on this connection */
    uint8_t by_caller[GW__SEND_TOTAL];
    uint32_t sent_first, sent_count, caller_count;
    char *presence;                     /* of this shard alone, JSON; NULL: the client's */
    uint32_t presence_waits;            /* the newest one is to be sent */
    gw_ticket presence_ticket;
    /* in which it comes back if it is dropped: memory that is there */
    gw__send_item *presence_item;
    gw__send_item *presence_next;       /* ... the one that is to be set */
    /* a ring: when the next may leave, oldest at presence_at */
    uint64_t presence_ms[GW__PRESENCE_TOTAL];
    uint32_t presence_at;
    gw__whole_list *whole_lists;
    /* one is in the connection's buffer, and has not wholly left */
    uint32_t has_written;
    gw__send_item *written;             /* which; NULL: the presence */
    uint64_t sends, dropped;
} gw__send;

static void gw__send_init(gw__send *send, gw__mem *mem, uint32_t cap, uint32_t max_age_ms)
{
    memset(send, 0, sizeof *send);
    send->mem = mem;
    send->cap = cap;
    send->max_age_ms = max_age_ms;
}

/* A new connection starts with a fresh budget; the queue outlives it. */
static void gw__send_begin_connection(gw__send *send)
{
    send->sent_first = send->sent_count = send->caller_count = 0;
    send->has_written = 0;              /* it went down with the old one, so it waits again */
    send->written = NULL;
}

/* ---- 120 payloads in 60 s ---- */

/* The caller's share of a window: all but the heartbeats that fall into it, and one to spare. */
static uint32_t gw__send_share(uint32_t interval_ms)
{
    uint32_t beats = interval_ms ? (GW__SEND_WINDOW_MS + interval_ms - 1) / interval_ms
                                 : GW__SEND_TOTAL;
    uint32_t reserve = GW__MAX(beats, 1u) + 1;
    return reserve > GW__SEND_TOTAL - GW__SEND_SHARE_MIN ? GW__SEND_SHARE_MIN
                                                         : GW__SEND_TOTAL - reserve;
}

static void gw__send_forget_old(gw__send *send, uint64_t now_ms)
{
    while (send->sent_count && send->sent_ms[send->sent_first] + GW__SEND_WINDOW_MS <= now_ms) {
        send->caller_count -= send->by_caller[send->sent_first];
        send->sent_first = (send->sent_first + 1) % GW__SEND_TOTAL;
        send->sent_count--;
    }
}

static int gw__send_may_leave(gw__send *send, int by_caller, uint32_t interval_ms, uint64_t now_ms)
{
    gw__send_forget_old(send, now_ms);
    if (send->sent_count == GW__SEND_TOTAL) return 0;
    return !by_caller || send->caller_count < gw__send_share(interval_ms);
}

/* A heartbeat that nobody waits for must not take the place of one that is due. */
static int gw__send_may_probe(gw__send *send, uint64_t now_ms)
{
    gw__send_forget_old(send, now_ms);
    return send->sent_count + 3 < GW__SEND_TOTAL;
}

/* The permit is taken before the payload is written. */
static void gw__send_count(gw__send *send, int by_caller, uint64_t now_ms)
{
    uint32_t slot = (send->sent_first + send->sent_count) % GW__SEND_TOTAL;
    GW_ASSERT(send->sent_count < GW__SEND_TOTAL);
    send->sent_ms[slot] = now_ms;
    send->by_caller[slot] = by_caller ? 1 : 0;
    send->sent_count++;
    send->caller_count += by_caller ? 1u : 0u;
    send->sends++;
}

/* When the next place of a window that is full comes free. */
static uint64_t gw__send_place_ms(const gw__send *send)
{
    return send->sent_count ? send->sent_ms[send->sent_first] + GW__SEND_WINDOW_MS : 0;
}

/* When the next place for a caller's payload comes free; now_ms if there is one. */
static uint64_t gw__send_free_ms(gw__send *send, uint32_t interval_ms, uint64_t now_ms)
{
    return gw__send_may_leave(send, 1, interval_ms, now_ms) ? now_ms : gw__send_place_ms(send);
}

/* ---- the queue: a list, the oldest first ---- */
static uint8_t *gw__send_bytes(gw__send_item *item)
{
    return (uint8_t *)(item + 1);
}

static void gw__send_append(gw__send *send, gw__send_item *item)
{
    if (send->youngest) send->youngest->next = item;
    else send->oldest = item;
    send->youngest = item;
    send->count++;
}

static gw__send_item *gw__send_new(gw__send *send, gw_ticket ticket, uint32_t len, uint64_t now_ms)
{
    gw__send_item *item = (gw__send_item *)gw__mem_new(send->mem, sizeof *item + len);
    if (!item) return NULL;
    item->len = len;
    item->ticket = ticket;
    item->queued_ms = now_ms;
    gw__send_append(send, item);
    return item;
}

/* A copy of the payload waits from now on. NULL: no place (count == cap), or no memory. */
static gw__send_item *gw__send_push(gw__send *send, gw_ticket ticket, const void *bytes,
                                    uint32_t len,
                                    uint64_t now_ms)
{
    gw__send_item *item;
    if (send->count >= send->cap) return NULL;
    item = gw__send_new(send, ticket, len, now_ms);
    if (item) memcpy(gw__send_bytes(item), bytes, len);
    return item;
}

static void gw__send_pop(gw__send *send, gw__send_item *item)
{
    gw__send_item *before = NULL, *at = send->oldest;
    size_t bytes = sizeof *item + item->len;
    while (at != item) before = at, at = at->next;
    if (before) before->next = item->next;
    else send->oldest = item->next;
    if (send->youngest == item) send->youngest = before;
    send->count--;
    send->to_tell -= item->dropped != 0;
    if (send->written == item) send->has_written = 0, send->written = NULL;
    gw__mem_wipe(item, bytes);
    gw__mem_free(send->mem, item, bytes);
}

/* Takes back what was queued under this ticket: of several shards, one had no room. */
static void gw__send_revoke(gw__send *send, gw_ticket ticket)
{
    gw__send_item *item = send->oldest, *next;
    for (; item; item = next) {
        next = item->next;
        if (item->ticket == ticket) gw__send_pop(send, item);
    }
}

/* It will not be sent (or answered) any more; the caller is to be told. */
static void gw__send_drop_item(gw__send *send, gw__send_item *item, uint32_t reason)
{
    if (item->dropped) return;
    item->dropped = reason;
    send->to_tell++;
}

/* A presence that waits makes room for a newer one, or its shard has ended. */
static void gw__send_drop_presence(gw__send *send, uint32_t reason, uint64_t now_ms)
{
    gw__send_item *item = send->presence_item;
    int is_told = send->presence_waits && send->presence_ticket;
    send->presence_waits = 0;
    if (is_told && !item) item = (gw__send_item *)gw__mem_new(send->mem, sizeof *item);
    if (!is_told || !item) return;
    send->presence_item = NULL;
    item->ticket = send->presence_ticket;
    item->queued_ms = now_ms;
    gw__send_append(send, item);
    gw__send_drop_item(send, item, reason);
}

/* The requests whose answer died with the session. */
static void gw__send_drop_asked(gw__send *send, uint32_t reason)
{
    gw__send_item *item;
    for (item = send->oldest; item; item = item->next)
        if (item->is_asked) gw__send_drop_item(send, item, reason);
}

/* The shard has ended. */
static void gw__send_drop_all(gw__send *send, uint32_t reason, uint64_t now_ms)
{
    gw__send_item *item;
    gw__send_drop_presence(send, reason, now_ms);
    for (item = send->oldest; item; item = item->next) gw__send_drop_item(send, item, reason);
}

/* How many have not left. */
static uint32_t gw__send_waiting(const gw__send *send)
{
    const gw__send_item *item;
    uint32_t count = send->presence_waits;
    for (item = send->oldest; item; item = item->next) count += !item->is_asked && !item->dropped;
    return count;
}

/* One whose end has come and is to be told, with its reason; NULL: none. The list is in the order
 * of age, so only the oldest can have grown too old. */
static gw__send_item *gw__send_ended(gw__send *send, uint64_t now_ms)
{
    gw__send_item *item = send->oldest;
    if (!item) return NULL;
    if (item != send->written && now_ms - item->queued_ms >= send->max_age_ms)
        gw__send_drop_item(send, item, item->is_asked ? GW_REASON_TIMEOUT : GW_REASON_TOO_OLD);
    if (!send->to_tell) return NULL;
    while (!item->dropped) item = item->next;
    return item;
}

/* ---- the whole list of a guild's members, once in 30 s ---- */
static uint32_t gw__send_whole_lists(const gw__send *send)
{
    return GW__MIN(send->cap, GW__WHOLE_LISTS_MAX);
}

/* Memory for them, before the first such request is queued. */
static int gw__send_remember_whole_lists(gw__send *send)
{
    if (!send->whole_lists)
        send->whole_lists = (gw__whole_list *)gw__mem_new(
            send->mem, gw__send_whole_lists(send) * sizeof *send->whole_lists);
    return send->whole_lists != NULL;
}

/* The guild's own row, or the one that is free first. */
static gw__whole_list *gw__send_whole_list(gw__send *send, uint64_t guild_id)
{
    gw__whole_list *first = send->whole_lists;
    uint32_t i;
    for (i = 0; i < gw__send_whole_lists(send); i++) {
        if (send->whole_lists[i].guild_id == guild_id) return &send->whole_lists[i];
        if (send->whole_lists[i].free_ms < first->free_ms) first = &send->whole_lists[i];
    }
    return first;
}

static void gw__send_hold_guild(gw__send *send, uint64_t guild_id, uint64_t until_ms)
{
    gw__whole_list *row = gw__send_whole_list(send, guild_id);
    row->guild_id = guild_id;
    row->free_ms = until_ms;
}

/* ---- what leaves next ---- */
static uint64_t gw__send_item_ms(gw__send *send, const gw__send_item *item)
{
    if (!item->is_whole_list) return item->not_before_ms;
    return GW__MAX(item->not_before_ms, gw__send_whole_list(send, item->guild_id)->free_ms);
}

/* The item that may leave first by its own limits, and when; of equal ones the oldest. NULL: none. */
static gw__send_item *gw__send_next(gw__send *send, uint64_t now_ms, uint64_t *when_ms)
{
    gw__send_item *item, *best = NULL;
    *when_ms = GW__NEVER;
    for (item = send->oldest; item && *when_ms > now_ms; item = item->next) {
        uint64_t item_ms = item->is_asked || item->dropped ? GW__NEVER
                                                           : gw__send_item_ms(send, item);
        if (item_ms < *when_ms) best = item, *when_ms = item_ms;
    }
    return best;
}

/* It has been written: a request for members waits for its answer, anything else is done. */
static void gw__send_left(gw__send *send, gw__send_item *item, uint64_t now_ms)
{
    if (item->is_whole_list) gw__send_hold_guild(send, item->guild_id, now_ms + GW__WHOLE_LIST_MS);
    item->is_asked = item->guild_id != 0;
    if (!item->is_asked) gw__send_pop(send, item);
}

/* Discord refused it for now: it waits for its time, or is over; if the caller does not hear of it by
 * the RATE_LIMITED itself, then by COMMAND_DROPPED. */
static void gw__send_refused(gw__send *send, gw__send_item *item, int is_told, uint64_t until_ms)
{
    if (item->is_whole_list) gw__send_hold_guild(send, item->guild_id, until_ms);
    if (!item->retry) {
        if (is_told) gw__send_pop(send, item);
        else gw__send_drop_item(send, item, GW_REASON_BUDGET);
        return;
    }
    item->is_asked = item->chunks = 0;
    item->not_before_ms = until_ms;
}

static int gw__send_awaits_answer(const gw__send *send)
{
    const gw__send_item *item = send->oldest;
    while (item && !item->is_asked) item = item->next;
    return item != NULL;
}

/* An answer could not be read. Whose it was is known where only one is out; of several, the one that is
 * never complete ends by its age. */
static void gw__send_miss_answer(gw__send *send)
{
    gw__send_item *item, *asked = NULL;
    uint32_t count = 0;
    for (item = send->oldest; item; item = item->next)
        if (item->is_asked && !item->dropped) asked = item, count++;
    if (count == 1) gw__send_drop_item(send, asked, GW_REASON_MEMORY);
}

/* ---- presence: only the newest counts, and it has no age ---- */
static uint64_t gw__send_presence_ms(const gw__send *send)
{
    return send->presence_waits ? send->presence_ms[send->presence_at] : GW__NEVER;
}

static void gw__send_presence_left(gw__send *send, uint64_t now_ms)
{
    send->presence_ms[send->presence_at] = now_ms + GW__PRESENCE_WINDOW_MS;
    send->presence_at = (send->presence_at + 1) % GW__PRESENCE_TOTAL;
    send->presence_waits = 0;
}

/* Whoever waits for a newer one to take its place is told in a place of the queue. */
static int gw__send_has_presence_place(const gw__send *send)
{
    return !send->presence_waits || !send->presence_ticket || send->count < send->cap;
}

/* Memory in which the next one can come back; 0: there is none. */
static int gw__send_reserve_presence(gw__send *send)
{
    if (!send->presence_next)
        send->presence_next = (gw__send_item *)gw__mem_new(send->mem, sizeof(gw__send_item));
    return send->presence_next != NULL;
}

static void gw__send_free_presence_item(gw__send *send, gw__send_item **item)
{
    gw__mem_free(send->mem, *item, sizeof **item);
    *item = NULL;
}

/* The newest one is to be sent; one that waited is told as dropped. */
static void gw__send_want_presence(gw__send *send, gw_ticket ticket, uint64_t now_ms)
{
    if (send->has_written && !send->written) {      /* it is on its way already */
        send->has_written = 0;
        gw__send_presence_left(send, now_ms);
    }
    gw__send_drop_presence(send, GW_REASON_NEWER, now_ms);
    gw__send_free_presence_item(send, &send->presence_item);
    send->presence_item = send->presence_next;
    send->presence_next = NULL;
    send->presence_waits = 1;
    send->presence_ticket = ticket;
}

/* json: 0-terminated memory that becomes ours, or NULL. */
static void gw__send_keep_presence(gw__send *send, char *json)
{
    if (send->presence) gw__mem_free(send->mem, send->presence, strlen(send->presence) + 1);
    send->presence = json;
}

static void gw__send_free(gw__send *send)
{
    while (send->oldest) gw__send_pop(send, send->oldest);
    gw__mem_free(send->mem, send->whole_lists,
                 gw__send_whole_lists(send) * sizeof *send->whole_lists);
    send->whole_lists = NULL;
    gw__send_keep_presence(send, NULL);
    gw__send_free_presence_item(send, &send->presence_item);
    gw__send_free_presence_item(send, &send->presence_next);
}

/* ==========================================================================
 * >> room: gate -- per token: who may identify, and when.
 *    Knows:  buckets by max_concurrency, session_start_limit, what was spent, the caller's gate hook.
 *    Not:    shards, connections; Resumes need no permit.
 *    Source: Discord docs, "Rate Limiting", "Session Start Limit Object", "max_concurrency".
 * ========================================================================== */

#define GW__IDENTIFY_EVERY_MS 5500u         /* 5 s by the documents, and half a second to spare */
#define GW__IDENTIFY_DAY_MS 86400000u
#define GW__HOUR_MS 3600000u
#define GW__TIME_UNKNOWN 1u                 /* of the last Identify: there was one, no clock said when */
#define GW__GATE_HOURS 25u                  /* the last 24 hours touch so many */
/* at the limit Discord ends all sessions and resets the token */
#define GW__IDENTIFY_DAY_LIMIT 1000u
#define GW__CONCURRENCY_MAX 1024u
/* until one asks again while another holds the permit */
#define GW__PERMIT_AGAIN_MS 250u

/* Two limits hold at once: what the server says is left of its window, and what we have spent in
 * the last 24 hours, whenever its window may begin. */
typedef struct gw__gate {
    gw__mem *mem;
    uint32_t concurrency;                   /* buckets; a shard's is its id % concurrency */
    uint32_t wanted_concurrency;            /* ... as soon as no permit is out */
    uint32_t bucket_cap;
    /* per bucket: when the next may identify; GW__NEVER: one holds the permit */
    uint64_t *free_ms;
    uint32_t promised;                      /* permits that are out, not spent yet */
    uint32_t total;                         /* Identifies of a window */
    uint32_t since_asked;       /* sent while /gateway/bot is asked: its answer may be older */
    uint32_t remaining;                     /* ... left, while the server or the config said so: */
    uint64_t resets_ms;                     /* GW__NEVER: nobody did */
    uint32_t spent[GW__GATE_HOURS];         /* by us, in this hour and the ones before it */
    /* which this one is, since 1970 where the time is known */
    uint64_t hour;
    /* from the monotonic clock to that time; 0: not known */
    uint64_t epoch_ms;
    uint64_t last_unix;  /* of the last Identify, s; 0: none; it travels in the session text */
} gw__gate;

static uint32_t gw__gate_buckets(uint32_t concurrency)
{
    return GW__MAX(1u, GW__MIN(concurrency, GW__CONCURRENCY_MAX));
}

static int gw__gate_init(gw__gate *gate, gw__mem *mem, uint32_t concurrency)
{
    memset(gate, 0, sizeof *gate);
    gate->mem = mem;
    gate->concurrency = gate->wanted_concurrency = gate->bucket_cap = gw__gate_buckets(concurrency);
    gate->total = GW__IDENTIFY_DAY_LIMIT;
    gate->resets_ms = GW__NEVER;
    gate->free_ms = (uint64_t *)gw__mem_new(mem, gate->bucket_cap * sizeof *gate->free_ms);
    return gate->free_ms != NULL;
}

static void gw__gate_free(gw__gate *gate)
{
    gw__mem_free(gate->mem, gate->free_ms, gate->bucket_cap * sizeof *gate->free_ms);
    gate->free_ms = NULL;
}

/* All buckets wait until then, whichever the last Identify was of; a permit that is out stays out. */
static void gw__gate_delay(gw__gate *gate, uint64_t until_ms)
{
    uint32_t i;
    for (i = 0; i < gate->concurrency; i++)
        gate->free_ms[i] = GW__MAX(gate->free_ms[i], until_ms);
}

/* As many buckets as /gateway/bot says. Shards change their buckets by it, so it waits until no
 * permit is out, and the last Identify then holds all buckets. */
static void gw__gate_resize(gw__gate *gate, uint32_t concurrency)
{
    uint64_t last_ms = 0;
    uint32_t i;
    void *grown;
    gate->wanted_concurrency = concurrency = gw__gate_buckets(concurrency);
    if (concurrency == gate->concurrency || gate->promised) return;
    for (i = 0; i < gate->concurrency; i++) last_ms = GW__MAX(last_ms, gate->free_ms[i]);
    if (concurrency > gate->bucket_cap) {
        grown = gw__mem_resize(gate->mem, gate->free_ms, gate->bucket_cap * sizeof *gate->free_ms,
                               concurrency * sizeof *gate->free_ms);
        if (!grown) {
            gate->wanted_concurrency = gate->concurrency;       /* fewer are only slower */
            return;
        }
        gate->free_ms = (uint64_t *)grown;
        gate->bucket_cap = concurrency;
    }
    gate->concurrency = concurrency;
    memset(gate->free_ms, 0, concurrency * sizeof *gate->free_ms);
    gw__gate_delay(gate, last_ms);
}

/* What session_start_limit says. */
static void gw__gate_limit(gw__gate *gate, uint32_t total, uint32_t remaining,
                           uint64_t reset_after_ms, uint64_t now_ms)
{
    gate->total = total;
    gate->remaining = remaining > gate->since_asked ? remaining - gate->since_asked : 0;
    gate->resets_ms = now_ms + reset_after_ms;
}

/* Time passes: what is more than a day old is forgotten, and the server's window ends. */
static void gw__gate_age(gw__gate *gate, uint64_t now_ms)
{
    uint64_t hour = (now_ms + gate->epoch_ms) / GW__HOUR_MS, passed;
    if (now_ms >= gate->resets_ms) gate->resets_ms = GW__NEVER;
    if (hour <= gate->hour) return;
    passed = GW__MIN(hour - gate->hour, GW__GATE_HOURS);
    memmove(gate->spent + passed, gate->spent, (GW__GATE_HOURS - passed) * sizeof *gate->spent);
    memset(gate->spent, 0, passed * sizeof *gate->spent);
    gate->hour = hour;
}

/* The wall clock, so that a day's Identifies outlive the process; 0: not known. Believed once: time
 * then passes by the monotonic clock, so that a clock that is set makes no Identify old. */
static void gw__gate_tell_time(gw__gate *gate, uint64_t unix_time, uint64_t now_ms)
{
    gw__gate_age(gate, now_ms);
    if (gate->epoch_ms || unix_time * 1000u <= now_ms) return;
    gate->epoch_ms = unix_time * 1000u - now_ms;
    gate->hour = (now_ms + gate->epoch_ms) / GW__HOUR_MS;
}

/* What another client of this bot had spent, in `hour` and the 24 before it. An hour in the future was
 * that of another clock: it counts as this one. */
static void gw__gate_add_spent(gw__gate *gate, uint64_t hour, const uint32_t spent[GW__GATE_HOURS])
{
    uint64_t age = gate->hour > hour ? gate->hour - hour : 0;
    uint32_t i;
    for (i = 0; i + age < GW__GATE_HOURS; i++)
        gate->spent[i + age] = GW__MAX(gate->spent[i + age], spent[i]);
}

static uint32_t gw__gate_spent(const gw__gate *gate)
{
    uint32_t i, sum = 0;
    for (i = 0; i < GW__GATE_HOURS; i++) sum += gate->spent[i];
    return sum;
}

/* Identifies that may still be spent. */
static uint32_t gw__gate_left(gw__gate *gate, uint64_t now_ms)
{
    uint32_t spent, left;
    gw__gate_age(gate, now_ms);
    spent = gw__gate_spent(gate);
    left = gate->total > spent ? gate->total - spent : 0;
    return gate->resets_ms == GW__NEVER ? left : GW__MIN(left, gate->remaining);
}

/* None is left: when that changes. */
static uint64_t gw__gate_refill_ms(const gw__gate *gate)
{
    uint32_t oldest = GW__GATE_HOURS - 1;
    uint64_t refill_ms = 0;
    while (oldest && !gate->spent[oldest]) oldest--;
    if (gw__gate_spent(gate) >= gate->total)
        refill_ms = (gate->hour + GW__GATE_HOURS - oldest) * GW__HOUR_MS - gate->epoch_ms;
    if (gate->resets_ms != GW__NEVER && !gate->remaining)
        refill_ms = GW__MAX(refill_ms, gate->resets_ms);
    return refill_ms;
}

/* Takes the permit of the shard's bucket. 0: taken; else how long to wait, *held_by_budget tells
 * for what. */
static uint64_t gw__gate_take(gw__gate *gate, int32_t shard, uint64_t now_ms, int *held_by_budget)
{
    uint32_t bucket, left = gw__gate_left(gate, now_ms);
    uint64_t free_ms;
    gw__gate_resize(gate, gate->wanted_concurrency);
    bucket = (uint32_t)shard % gate->concurrency;
    free_ms = gate->free_ms[bucket];
    *held_by_budget = left == 0;
    if (*held_by_budget) return gw__gate_refill_ms(gate) - now_ms;
    /* another shard is on its way to identify, or the buckets are about to change */
    if (left <= gate->promised || free_ms == GW__NEVER ||
        gate->wanted_concurrency != gate->concurrency) return GW__PERMIT_AGAIN_MS;
    if (free_ms > now_ms) return free_ms - now_ms;
    gate->free_ms[bucket] = GW__NEVER;
    gate->promised++;
    return 0;
}

/* Until the bucket is free, as far as that is known. */
static uint32_t gw__gate_wait_ms(const gw__gate *gate, int32_t shard, uint64_t now_ms)
{
    uint64_t free_ms = gate->free_ms[(uint32_t)shard % gate->concurrency];
    return free_ms == GW__NEVER || free_ms <= now_ms ? 0 : (uint32_t)(free_ms - now_ms);
}

/* The permit was not used: the connection failed before Identify. */
static void gw__gate_return(gw__gate *gate, int32_t shard, uint64_t now_ms)
{
    gate->free_ms[(uint32_t)shard % gate->concurrency] = now_ms;
    gate->promised--;
}

static void gw__gate_spend(gw__gate *gate, int32_t shard, uint64_t now_ms, uint64_t unix_time)
{
    gw__gate_age(gate, now_ms);
    gate->last_unix = unix_time ? unix_time : GW__TIME_UNKNOWN;
    gate->free_ms[(uint32_t)shard % gate->concurrency] = now_ms + GW__IDENTIFY_EVERY_MS;
    if (gate->remaining) gate->remaining--;
    gate->since_asked++;
    gate->promised--;
    gate->spent[0]++;
}

/* ==========================================================================
 * >> room: shard -- one connection through its states.
 *    Knows:  the order link, upgrade, Hello, Identify or Resume, live; what is stored of a payload.
 *    Not:    other shards, the poller, the caller's calls.
 *    One enum, one function that enters a state: gw__shard_enter().
 * ========================================================================== */

/* name, deadline in ms, what is said when it passes. Without a deadline: WAITING and GATED get
 * their time when they are entered, LINKING has the link's own, IDENTIFYING and LIVE are guarded
 * by the ACK rule, STOPPED waits for nobody. */
#define GW__STATES(X) \
    X(STOPPED,     0,     "") \
    X(WAITING,     0,     "") \
    X(GATED,       0,     "") \
    X(LINKING,     0,     "") \
    X(UPGRADING,   15000, "the server did not answer the WebSocket upgrade") \
    X(HELLO,       20000, "the server sent no Hello (op 10)") \
    X(IDENTIFYING, 0,     "") \
    X(RESUMING,    60000, "the server neither resumed the session nor refused") \
    X(LIVE,        0,     "") \
    X(CLOSING,     4000,  "the server did not answer our close frame")

typedef enum gw__state {
#define GW__STATE(name, timeout_ms, text) GW__##name,
    GW__STATES(GW__STATE)
#undef GW__STATE
    GW__STATE_COUNT
} gw__state;

typedef enum gw__step { GW__STEP_IDLE, GW__STEP_MORE, GW__STEP_EVENT } gw__step;

/* ---- notices: the library's own events on their way to the caller ---- */
#define GW__NOTICES_MAX 16u
#define GW__NOTICES_A_STEP 5u           /* what one step of a shard makes at most */
#define GW__PAYLOAD_MIN 512u            /* so that Hello is read whatever config.max_payload is */
#define GW__OUT_STUCK_BYTES 16384u      /* that the server has not taken: it reads no more */

typedef struct gw__notice {
    gw_event event;
    char *text;                         /* message, 0, d, 0: one piece of memory */
    size_t text_bytes;
} gw__notice;

typedef struct gw__notices {
    gw__notice ring[GW__NOTICES_MAX];
    uint32_t first, count;
} gw__notices;

typedef struct gw__shared {             /* what all shards of a client share */
    gw__mem mem;
    gw__logger logger;
    gw__poller poller;
    gw__net net;
    gw__trust trust;
    gw__tls_ticket tickets[2];          /* of the cached host and of the last resume host */
    gw__gate gate;
    gw__identity identity;
    gw__names names;
    gw__notices notices;
    gw__buf scratch;                    /* a payload while it is written */
    gw__url gateway_url;                /* the cached one; never overwritten by a resume URL */
    uint32_t has_gateway_url, gateway_url_failures;
    uint32_t knows_limits;  /* the config or /gateway/bot said what an Identify may cost */
    uint32_t info_wanted;               /* a shard wants to identify and must know first */
    uint32_t max_payload;
    uint32_t running;                   /* shards that are not STOPPED */
    /* shards come and go by gw_shard_start() and gw_shard_stop() */
    uint32_t by_hand;
    uint32_t ack_by_hand;
    uint64_t unwanted[2];               /* one bit a dispatch: gw_want() switched it off */
    uint64_t unix_time_floor;
    uint64_t (*unix_time)(void *user);
    int32_t (*identify_gate)(void *user, int32_t shard, uint32_t bucket);
    uint64_t user_id, application_id;
    uint64_t turn_bytes;
    uint64_t beats;                     /* heartbeats sent so far */
    uint32_t fatal;                     /* a FATAL was said: everything stops */
    uint32_t connections;               /* made so far; names each in the poller's tags */
    uint32_t sleeps;                    /* of the machine, so far */
} gw__shared;

typedef struct gw__shard {
    gw__shared *shared;
    int32_t id;
    uint32_t index;                     /* in the client's list */
    gw__state state;
    uint64_t deadline_ms;
    uint32_t wait_ms;                   /* of WAITING and GATED */
    uint32_t held;                      /* by gw_hold() */
    uint32_t held_passes;               /* ... but the event that waits has to go */
    uint32_t has_permit, hold_told;
    uint32_t stop_how;                  /* enum gw_how, once the caller ends it; else 0 */
    uint32_t stop_to_tell;              /* SHARD_STOPPED is owed: it comes before a new start */
    const char *stop_session;           /* ... and says this of the session */
    uint32_t session_was_lost;          /* by the end that is in hand */
    uint32_t server_wait_ms;            /* a refused upgrade asked for it */
    uint32_t wait_is_asked;             /* by the server, so gw_recheck() does not cut it short */
    uint32_t in_hand;                   /* the caller holds an event of this shard */
    uint32_t skips_to_tell;             /* SKIPPED events that he has not let go of */
    uint32_t sleeps;                    /* of shared->sleeps, those that it has heard of */
    /* the window of sends was full: it leaves with the next place */
    uint32_t beat_is_owed;
    uint32_t probe_deadline_is_set;
    uint64_t probe_deadline_ms;         /* gw_recheck() wants an ACK by then */
    gw__link link;
    gw__http http;
    gw__ws ws;
    uint8_t nonce[16];
    gw__json_scan scan;
    uint32_t type;                      /* of the message that comes in, by its t */
    gw__buf payload;                    /* ... its d */
    uint32_t in_d, dropping, oversize, unwanted, broken;
    uint32_t in_message;                /* its end has not come */
    uint64_t heard_ms;                  /* when the last bytes came */
    uint64_t progress_ms, progress_bytes;       /* ... and the last 16 KiB of the message in hand */
    uint64_t message_bytes;
    gw__session session;
    gw__send send;
    gw__fault fault;                    /* why the connection ends */
    int32_t detail;                     /* ... and which row of GW__ENDINGS */
    char close_reason[124];             /* what the server's Close said besides its code */
    uint16_t own_close;                 /* the code that our close frame carries; 0: no frame */
    gw_event event;                     /* a dispatch that waits to be taken */
    uint32_t has_event;
    uint32_t in_ready;                  /* it stands in the client's ready list */
    struct gw__shard *next_ready;
    uint64_t next_ms;
    uint64_t events, filtered, skipped, payload_bytes, connects, resumes, identifies, polls_late;
} gw__shard;

static int gw__notices_have_room(const gw__notices *notices)
{
    return notices->count + GW__NOTICES_A_STEP <= GW__NOTICES_MAX;
}

/* Queues a notice; NULL only if its caller forgot to ask for room. The event's other fields are
 * the caller's to fill. */
static gw_event *gw__notice_push(gw__shared *shared, uint32_t type, int32_t shard,
                                 const char *message, const char *d)
{
    gw__notices *notices = &shared->notices;
    size_t message_bytes = strlen(message) + 1, d_bytes = d ? strlen(d) + 1 : 0;
    gw__notice *notice;
    GW_ASSERT(notices->count < GW__NOTICES_MAX);
    if (notices->count == GW__NOTICES_MAX) return NULL;
    notice = &notices->ring[(notices->first + notices->count++) % GW__NOTICES_MAX];
    memset(notice, 0, sizeof *notice);
    notice->event.type = type;
    notice->event.shard = shard;
    notice->event.name = gw_name_of(type);
    notice->event.message = "there is no memory for the sentence of this event";
    notice->text = (char *)gw__mem_new(&shared->mem, message_bytes + d_bytes);
    if (!notice->text) return &notice->event;
    notice->text_bytes = message_bytes + d_bytes;
    memcpy(notice->text, message, message_bytes);
    if (d) memcpy(notice->text + message_bytes, d, d_bytes);
    gw__text_redact(notice->text, shared->identity.token);
    if (d) gw__text_redact(notice->text + message_bytes, shared->identity.token);
    notice->event.message = notice->text;
    notice->event.d.ptr = d ? notice->text + message_bytes : NULL;
    notice->event.d.len = d ? d_bytes - 1 : 0;
    return &notice->event;
}

static gw__trust_clock gw__shared_clock(gw__shared *shared)
{
    gw__trust_clock clock;
    if (shared->unix_time) {
        shared->net.in_hook = 1;
        clock.unix_time = shared->unix_time(shared->net.user);
        shared->net.in_hook = 0;
    } else {
        clock.unix_time = gw__sys_unix_time();
    }
    clock.is_floor = clock.unix_time < shared->unix_time_floor;
    if (clock.is_floor) clock.unix_time = shared->unix_time_floor;
    return clock;
}

/* 0: not known, or only that it is later than some time. */
static uint64_t gw__shared_known_time(gw__shared *shared)
{
    gw__trust_clock clock = gw__shared_clock(shared);
    return clock.is_floor ? 0 : clock.unix_time;
}

/* Without random bytes the whole wait: a hot loop would be worse than no jitter. */
static uint32_t gw__shared_random(gw__shared *shared)
{
    uint32_t value;
    return gw__net_random(&shared->net, &value, sizeof value) ? value : UINT32_MAX;
}

static gw__tls_ticket *gw__shared_ticket(gw__shared *shared, const gw__url *url)
{
    return &shared->tickets[strcmp(url->host, shared->gateway_url.host) != 0];
}

/* ---- states ---- */
static const char *gw__state_name(gw__state state)
{
#define GW__STATE(name, timeout_ms, text) #name,
    static const char *const names[] = { GW__STATES(GW__STATE) "" };
#undef GW__STATE
    return names[state];
}

static const char *gw__state_timeout_text(gw__state state)
{
#define GW__STATE(name, timeout_ms, text) text,
    static const char *const texts[] = { GW__STATES(GW__STATE) "" };
#undef GW__STATE
    return texts[state];
}

static uint32_t gw__state_timeout_ms(gw__state state)
{
#define GW__STATE(name, timeout_ms, text) timeout_ms,
    static const uint32_t timeouts[] = { GW__STATES(GW__STATE) 0 };
#undef GW__STATE
    return timeouts[state];
}

static uint64_t gw__shard_deadline_ms(const gw__shard *shard, gw__state state, uint64_t now_ms)
{
    uint32_t timeout_ms = gw__state_timeout_ms(state);
    if (state == GW__WAITING || state == GW__GATED) return now_ms + shard->wait_ms;
    return timeout_ms ? now_ms + timeout_ms : GW__NEVER;
}

/* gw_hold() stops events; the handshake must be read all the same. */
static void gw__shard_apply_hold(gw__shard *shard)
{
    shard->link.held = shard->held && shard->state >= GW__IDENTIFYING && shard->state <= GW__LIVE;
}

/* The one place that changes the state. */
static void gw__shard_enter(gw__shard *shard, gw__state next, uint64_t now_ms, const char *why)
{
    gw__log(&shard->shared->logger, GW_LOG_DEBUG, shard->id, "%s -> %s: %s",
            gw__state_name(shard->state), gw__state_name(next), why);
    if (shard->state == GW__STOPPED && next != GW__STOPPED) shard->shared->running++;
    if (shard->state != GW__STOPPED && next == GW__STOPPED) shard->shared->running--;
    shard->state = next;
    shard->deadline_ms = gw__shard_deadline_ms(shard, next, now_ms);
    gw__shard_apply_hold(shard);
}

/* 1: the WebSocket stands, so payloads and close frames can be sent. */
static int gw__shard_is_open(const gw__shard *shard)
{
    return shard->state >= GW__HELLO && shard->state <= GW__LIVE;
}

static void gw__shard_init(gw__shard *shard, gw__shared *shared, int32_t id, uint32_t index,
                           uint32_t max_queued, uint32_t max_queued_ms)
{
    shard->shared = shared;
    shard->id = id;
    shard->index = index;
    shard->deadline_ms = shard->next_ms = GW__NEVER;
    shard->session.next_beat_ms = GW__NEVER;
    gw__link_init(&shard->link, &shared->net);
    gw__buf_init(&shard->payload, &shared->mem, GW__MAX(shared->max_payload, GW__PAYLOAD_MIN));
    gw__send_init(&shard->send, &shared->mem, max_queued, max_queued_ms);
}

static void gw__shard_free(gw__shard *shard)
{
    gw__link_drop(&shard->link);
    gw__http_free(&shard->http);
    gw__buf_free(&shard->payload);
    gw__send_free(&shard->send);
    gw__session_forget(&shard->session);
}

/* ---- trace: each payload as one line, for the log hook that asks for GW_LOG_TRACE ---- */

/* Line ends stand between values, and never inside of strings: a blank does as well. */
static char *gw__shard_one_line(char *text)
{
    char *at;
    for (at = text; *at; at++) if (*at == '\n' || *at == '\r') *at = ' ';
    return text;
}

/* The line that was written; without memory none is. */
static void gw__shard_end_trace(gw__shard *shard, gw__buf *line, int written)
{
    if (written && gw__buf_append(line, "", 1))
        gw__log_text(&shard->shared->logger, GW_LOG_TRACE, shard->id,
                     gw__shard_one_line((char *)gw__buf_data(line)));
    if (line->bytes) gw__mem_wipe(line->bytes, line->cap);
    gw__buf_free(line);
}

static void gw__shard_trace_sent(gw__shard *shard, const void *bytes, size_t len)
{
    gw__buf line;
    if (!gw__log_wants(&shard->shared->logger, GW_LOG_TRACE)) return;
    gw__buf_init(&line, &shard->shared->mem, SIZE_MAX / 2);
    gw__shard_end_trace(shard, &line, gw__buf_append(&line, "> ", 2) &&
                                      gw__json_redact(&line, (const char *)bytes, len));
}

/* The envelope is written anew. d is null where it was passed over; bytes tells how large it was.
 * In a d that is broken inside no key can be told from its value: nothing of it is shown. */
static int gw__shard_write_trace(const gw__shard *shard, const gw__payload *payload, gw__buf *line)
{
    gw__json_writer writer;
    int passed_over = shard->oversize || shard->unwanted;
    gw__json_write_begin(&writer, line);
    gw__json_write_open(&writer, '{');
    if (payload->has_op) gw__json_write_number(&writer, "op", payload->op);
    if (payload->has_seq) gw__json_write_number(&writer, "s", payload->seq);
    if (shard->scan.has_name) gw__json_write_property(&writer, "t", shard->scan.name);
    if (passed_over) gw__json_write_number(&writer, "bytes", shard->message_bytes);
    gw__json_write_key(&writer, "d");
    if (!payload->d.ptr) gw__json_write_null(&writer);
    else if (!gw__json_is_valid(payload->d.ptr, payload->d.len))
        gw__json_write_text(&writer, "***", 3);
    else if (!gw__json_redact(line, payload->d.ptr, payload->d.len)) return 0;
    gw__json_write_close(&writer, '}');
    return !writer.failed;
}

static void gw__shard_trace_received(gw__shard *shard, const gw__payload *payload)
{
    gw__buf line;
    if (!gw__log_wants(&shard->shared->logger, GW_LOG_TRACE)) return;
    gw__buf_init(&line, &shard->shared->mem, SIZE_MAX / 2);
    gw__shard_end_trace(shard, &line, gw__buf_append(&line, "< ", 2) &&
                                      gw__shard_write_trace(shard, payload, &line));
}

/* ---- sending ---- */

/* One frame into the link's buffer, and as much of it onto the wire as goes now. */
static int gw__shard_write_frame(gw__shard *shard, uint32_t opcode, const void *bytes, size_t len)
{
    uint8_t mask[4];
    if (opcode == GW__WS_TEXT) gw__shard_trace_sent(shard, bytes, len);
    return gw__net_random(&shard->shared->net, mask, sizeof mask) &&
           gw__ws_write(&shard->link.out, opcode, bytes, len, mask) && gw__link_flush(&shard->link);
}

/* The payload in the scratch buffer: heartbeat, Identify, Resume. They go ahead of all that waits.
 * 0: it could not be sent, for want of memory or because a server's op 1 used the window up. */
static int gw__shard_write_scratch(gw__shard *shard, int written, uint64_t now_ms)
{
    gw__buf *scratch = &shard->shared->scratch;
    int sent = written && gw__send_may_leave(&shard->send, 0, shard->session.interval_ms, now_ms);
    if (sent) {
        gw__send_count(&shard->send, 0, now_ms);
        sent = gw__shard_write_frame(shard, GW__WS_TEXT, gw__buf_data(scratch),
                                     gw__buf_len(scratch));
    }
    if (scratch->bytes) gw__mem_wipe(scratch->bytes, scratch->cap);     /* it may hold the token */
    gw__buf_clear(scratch);
    return sent;
}

static int gw__shard_beat(gw__shard *shard, uint64_t now_us)
{
    gw__buf *scratch = &shard->shared->scratch;
    if (!gw__shard_is_open(shard)) return 0;
    shard->beat_is_owed = !gw__send_may_leave(&shard->send, 0, 0, now_us / 1000u);
    if (shard->beat_is_owed) return 0;
    if (!gw__shard_write_scratch(shard, gw__session_write_heartbeat(scratch, &shard->session),
                                 now_us / 1000u)) return 0;
    gw__session_beat_sent(&shard->session, now_us);
    shard->shared->beats++;
    return 1;
}

/* ---- commands ---- */

/* Why a command was dropped; of a shard that ended, whatever ended it. */
static const char *gw__drop_text(const gw__send_item *item)
{
    if (item->is_asked && item->dropped == GW_REASON_MEMORY)
        return "its answer was larger than config.max_payload, or than the memory left";
    switch (item->dropped) {
    case GW_REASON_NEWER:        return "a newer presence took its place";
    case GW_REASON_TOO_OLD:      return "it waited longer than config.max_queued_ms";
    case GW_REASON_SESSION_GONE: return "the session ended before its answer was complete: ask again";
    case GW_REASON_TIMEOUT:      return "no complete answer came within config.max_queued_ms";
    case GW_REASON_MEMORY:       return "no memory to send it";
    case GW_REASON_BUDGET:       return "Discord refused it for now (RATE_LIMITED)";
    default:                     return "its shard ended before it could be sent";
    }
}

/* What has come to its end comes back as COMMAND_DROPPED. */
static void gw__shard_tell_dropped(gw__shard *shard, uint64_t now_ms)
{
    gw__send_item *item;
    gw_event *event;
    char text[96];
    while (gw__notices_have_room(&shard->shared->notices) &&
           (item = gw__send_ended(&shard->send, now_ms)) != NULL) {
        gw__text_format(text, sizeof text, "command %d: %s", (int)item->ticket,
                        gw__drop_text(item));
        event = gw__notice_push(shard->shared, GW_COMMAND_DROPPED, shard->id, text, NULL);
        if (event) {
            event->ticket = item->ticket;
            event->reason = item->dropped;
        }
        shard->send.dropped++;
        gw__send_pop(&shard->send, item);
    }
}

typedef enum gw__wrote { GW__WROTE, GW__WROTE_NOTHING, GW__WROTE_WAITS, GW__WROTE_NO_MEMORY } gw__wrote;

/* Onto the wire, counted. WROTE_NOTHING: the connection turns out to be gone before the frame was
 * whole, of which no peer makes anything. WROTE_WAITS: the rest of it waits for a full socket. */
static gw__wrote gw__shard_write_command(gw__shard *shard, const void *bytes, size_t len,
                                         uint64_t now_ms)
{
    uint8_t mask[4];
    gw__send_count(&shard->send, 1, now_ms);
    if (!gw__net_random(&shard->shared->net, mask, sizeof mask) ||
        !gw__ws_write(&shard->link.out, GW__WS_TEXT, bytes, len, mask)) return GW__WROTE_NO_MEMORY;
    gw__shard_trace_sent(shard, bytes, len);
    if (!gw__link_flush(&shard->link)) return GW__WROTE_NOTHING;
    if (!gw__link_wants_write(&shard->link)) return GW__WROTE;
    shard->send.has_written = 1;            /* the socket is full */
    return GW__WROTE_WAITS;
}

/* The presence that counts: the shard's own, else the client's; NULL: none was ever set. */
static const char *gw__shard_presence(const gw__shard *shard)
{
    return shard->send.presence ? shard->send.presence : shard->shared->identity.presence;
}

/* Without memory it waits for the next place in its window. */
static void gw__shard_send_presence(gw__shard *shard, uint64_t now_ms)
{
    gw__buf *scratch = &shard->shared->scratch;
    const char *json = gw__shard_presence(shard);
    gw__wrote wrote = GW__WROTE_NO_MEMORY;
    int sent;
    if (json && gw__session_write_presence(scratch, json))
        wrote = gw__shard_write_command(shard, gw__buf_data(scratch), gw__buf_len(scratch), now_ms);
    sent = wrote == GW__WROTE;
    gw__buf_clear(scratch);
    if (wrote == GW__WROTE_WAITS) return;
    gw__send_presence_left(&shard->send, now_ms);
    shard->send.presence_waits = json && !sent;
}

/* ---- the end of a connection ---- */
static void gw__shard_goodbye(gw__shard *shard)
{
    uint8_t mask[4];
    if (gw__shard_is_open(shard) && shard->own_close &&
        gw__net_random(&shard->shared->net, mask, sizeof mask))
        gw__ws_write_close(&shard->link.out, shard->own_close, "", mask);
    gw__link_close(&shard->link);           /* never waits for the peer's answer: it may be dead */
    gw__http_free(&shard->http);
    shard->session.next_beat_ms = GW__NEVER;
    shard->session.suspect_ms = 0;
    shard->probe_deadline_is_set = 0;
}

static void gw__shard_return_permit(gw__shard *shard, uint64_t now_ms)
{
    if (!shard->has_permit) return;
    shard->has_permit = 0;
    gw__gate_return(&shard->shared->gate, shard->id, now_ms);
}

/* A connect that failed before Hello: the other host is tried next, and the cached URL may be
 * out of date. One that says op 7 in place of Hello works, unless it says nothing else. */
static void gw__shard_count_failed_connect(gw__shard *shard)
{
    int has_spoken = shard->fault.reason == GW_REASON_ASKED ||
                     shard->fault.reason == GW_REASON_INVALID_SESSION;
    if (shard->state != GW__LINKING && shard->state != GW__UPGRADING && shard->state != GW__HELLO)
        return;
    if (has_spoken && shard->session.attempts <= GW__ASKED_PATIENCE) return;
    if (gw__session_url(&shard->session, &shard->shared->gateway_url) ==
        &shard->shared->gateway_url)
        shard->shared->gateway_url_failures++;
    if (gw__session_can_resume(&shard->session) && shard->shared->has_gateway_url)
        shard->session.at_cached_url ^= 1u;
}

/* What an end means to the session, for programs: "kept" can be resumed, "none" there was none. */
static const char *gw__shard_session_word(const gw__shard *shard, gw__next next)
{
    if (!shard->session.begun) return shard->session_was_lost ? "lost" : "none";
    if (!shard->session.id[0]) return "lost";
    return next == GW__NEXT_RESUME || shard->stop_how == GW_KEEP ? "kept" : "lost";
}

/* A notice about an end: its sentence, and the same in pieces as d. */
static gw_event *gw__shard_tell_end(gw__shard *shard, uint32_t type, const gw__ending *ending,
                                    gw__next next)
{
    gw__buf *scratch = &shard->shared->scratch;
    gw__json_writer writer;
    char text[GW__FAULT_TEXT_MAX + 200];
    gw_event *event;
    gw__text_format(text, sizeof text, "%s%s%s", shard->fault.text,
                    ending->is_said || !ending->advice[0] ? "" : ": ",
                    ending->is_said ? "" : ending->advice);
    gw__json_write_begin(&writer, scratch);
    gw__json_write_open(&writer, '{');
    gw__json_write_property(&writer, "session", type == GW_SHARD_STOPPED ? shard->stop_session
                                                    : gw__shard_session_word(shard, next));
    gw__json_write_property(&writer, "close_reason", shard->close_reason);
    gw__json_write_property(&writer, "advice", ending->advice);
    gw__json_write_close(&writer, '}');
    gw__json_write_bytes(&writer, "", 1);
    gw__log(&shard->shared->logger, type == GW_FATAL ? GW_LOG_ERROR : GW_LOG_INFO, shard->id,
            "%s: %s",
            gw_name_of(type), text);
    event = gw__notice_push(shard->shared, type, type == GW_FATAL ? (int32_t)GW_ALL : shard->id,
                            text,
                            writer.failed ? NULL : (const char *)gw__buf_data(scratch));
    gw__buf_clear(scratch);
    if (!event) return NULL;
    event->reason = shard->fault.reason;
    event->close_code = shard->fault.code;
    event->session = shard->session.number;
    return event;
}

static void gw__shard_tell_disconnected(gw__shard *shard, const gw__ending *ending, gw__next next,
                                        uint32_t wait_ms)
{
    gw_event *event = gw__shard_tell_end(shard, GW_DISCONNECTED, ending, next);
    if (!event || (next != GW__NEXT_RESUME && next != GW__NEXT_IDENTIFY)) return;
    event->will = next == GW__NEXT_RESUME ? GW_NEXT_RESUME : GW_NEXT_IDENTIFY;
    event->in_ms = wait_ms;
}

static void gw__shard_lose_session(gw__shard *shard, int tell)
{
    int had_one = shard->session.begun != 0;
    gw__session_forget(&shard->session);
    if (had_one) shard->session_was_lost = 1;
    gw__send_drop_asked(&shard->send, GW_REASON_SESSION_GONE);
    if (had_one && tell)
        gw__notice_push(shard->shared, GW_SESSION_LOST, shard->id,
                        "the session is gone; what was not delivered is lost: refetch your state",
                        NULL);
}

/* No connection, no commands, until it is started again. SHARD_STOPPED, if it is to be told, comes
 * behind the commands that were dropped by it. */
static void gw__shard_retire(gw__shard *shard, int tell, uint64_t now_ms)
{
    gw__shard_return_permit(shard, now_ms);
    gw__send_drop_all(&shard->send, shard->fault.reason, now_ms);
    shard->stop_to_tell = tell != 0;
    shard->stop_session = gw__shard_session_word(shard, GW__NEXT_STOP);
    gw__shard_enter(shard, GW__STOPPED, now_ms, shard->fault.text);
}

static void gw__shard_tell_stopped(gw__shard *shard)
{
    if (!shard->stop_to_tell || shard->send.to_tell ||
        !gw__notices_have_room(&shard->shared->notices)) return;
    shard->stop_to_tell = 0;
    gw__shard_tell_end(shard, GW_SHARD_STOPPED, gw__ending_of(shard->fault.reason, shard->detail),
                       GW__NEXT_STOP);
}

/* The end that cannot be mended by connecting again: of the client, or of this shard where others
 * run, or can be started. */
static void gw__shard_end_for_good(gw__shard *shard, const gw__ending *ending, gw__next next,
                                   uint64_t now_ms)
{
    gw__shared *shared = shard->shared;
    if (next == GW__NEXT_STOP && shared->running == 1 && !shared->by_hand) next = GW__NEXT_FATAL;
    if (next == GW__NEXT_FATAL) {
        gw__shard_tell_end(shard, GW_FATAL, ending, next);
        shared->fatal = shard->fault.reason;
    }
    gw__shard_lose_session(shard, 0);
    gw__shard_retire(shard, next != GW__NEXT_FATAL, now_ms);
}

/* gw_hold() keeps an event from the caller that has come already. A new connection needs its place,
 * so the Resume asks for it again; a READY, which is in no replay, one that has answered a command, or
 * one whose session is lost, is handed out all the same. */
static void gw__shard_give_back(gw__shard *shard, gw__next next)
{
    if (!shard->held || !shard->has_event) return;
    if (next != GW__NEXT_RESUME || shard->event.seq < 2 || shard->event.type == GW_READY ||
        shard->event.type == GW_RATE_LIMITED || shard->event.type == GW_GUILD_MEMBERS_CHUNK) {
        shard->held_passes = 1;
        return;
    }
    shard->session.received_seq = shard->event.seq - 1;
    shard->events--;
    shard->has_event = 0;
}

/* Every end of a connection comes through here: shard->fault and shard->detail say why, the
 * table says what next. */
static gw__step gw__shard_end(gw__shard *shard, uint64_t now_ms)
{
    const gw__ending *ending = gw__ending_of(shard->fault.reason, shard->detail);
    uint32_t wait_ms;
    gw__next next;
    gw__shard_count_failed_connect(shard);
    gw__shard_goodbye(shard);
    gw__shard_return_permit(shard, now_ms);
    next = gw__session_after(&shard->session, ending, now_ms, gw__shared_random(shard->shared),
                             &wait_ms);
    gw__shard_give_back(shard, next);
    wait_ms = GW__MAX(wait_ms, shard->server_wait_ms);
    if (next == GW__NEXT_IDENTIFY)
        wait_ms = GW__MAX(wait_ms, gw__gate_wait_ms(&shard->shared->gate, shard->id, now_ms));
    gw__shard_tell_disconnected(shard, ending, next, wait_ms);
    /* the caller's own stop; GW_KEEP keeps the session for its text */
    if (shard->state == GW__CLOSING) {
        if (shard->stop_how == GW_END) gw__shard_lose_session(shard, 0);
        gw__shard_retire(shard, 0, now_ms);
        return GW__STEP_MORE;
    }
    if (next == GW__NEXT_FATAL || next == GW__NEXT_STOP) {
        gw__shard_end_for_good(shard, ending, next, now_ms);
        return GW__STEP_MORE;
    }
    if (next == GW__NEXT_IDENTIFY) gw__shard_lose_session(shard, 1);
    shard->wait_ms = wait_ms;
    shard->wait_is_asked = ending->wait_from_ms || shard->server_wait_ms;
    gw__shard_enter(shard, GW__WAITING, now_ms, shard->fault.text);
    return GW__STEP_MORE;
}

static gw__step gw__shard_fail(gw__shard *shard, uint32_t reason, const char *text, uint64_t now_ms)
{
    gw__fault_set(&shard->fault, reason, 0, "%s", text);
    return gw__shard_end(shard, now_ms);
}

static gw__step gw__shard_fail_as(gw__shard *shard, const gw__fault *fault, uint64_t now_ms)
{
    shard->fault = *fault;
    shard->detail = fault->code;
    return gw__shard_end(shard, now_ms);
}

/* ---- what waits: told, or sent ---- */

/* A dead connection must not eat commands: what was written last has to be on its way. */
static int gw__shard_may_send(gw__shard *shard, uint64_t now_ms)
{
    return shard->state == GW__LIVE && !gw__link_wants_write(&shard->link) &&
           !shard->link.write_failed &&
           gw__send_may_leave(&shard->send, 1, shard->session.interval_ms, now_ms);
}

/* What waited in the connection's buffer has left. */
static void gw__shard_look_at_written(gw__shard *shard, uint64_t now_ms)
{
    gw__send *send = &shard->send;
    gw__send_item *item = send->written;
    if (!send->has_written || shard->link.write_failed ||
        gw__link_wants_write(&shard->link)) return;
    send->has_written = 0;
    send->written = NULL;
    if (item) gw__send_left(send, item, now_ms);
    else gw__send_presence_left(send, now_ms);
}

/* What waits leaves as far as the limits allow, the presence first. */
static void gw__shard_pump(gw__shard *shard, uint64_t now_ms)
{
    gw__send_item *item;
    uint64_t when_ms;
    gw__shard_look_at_written(shard, now_ms);
    gw__shard_tell_dropped(shard, now_ms);
    gw__shard_tell_stopped(shard);
    while (gw__shard_may_send(shard, now_ms)) {
        if (gw__send_presence_ms(&shard->send) <= now_ms) {
            gw__shard_send_presence(shard, now_ms);
            continue;
        }
        item = gw__send_next(&shard->send, now_ms, &when_ms);
        if (when_ms > now_ms) return;
        switch (gw__shard_write_command(shard, gw__send_bytes(item), item->len, now_ms)) {
        case GW__WROTE: gw__send_left(&shard->send, item, now_ms); break;
        case GW__WROTE_NOTHING: return;         /* it waits for the next connection */
        case GW__WROTE_WAITS: shard->send.written = item; return;
        case GW__WROTE_NO_MEMORY:
            gw__send_drop_item(&shard->send, item, GW_REASON_MEMORY);
            break;
        }
    }
}

/* When the pump has something to do even if no socket stirs. */
static uint64_t gw__shard_pump_ms(gw__shard *shard, uint64_t now_ms)
{
    gw__send *send = &shard->send;
    uint64_t next_ms = send->to_tell || shard->stop_to_tell ? now_ms : GW__NEVER, leave_ms, free_ms;
    if (send->oldest && send->oldest != send->written)
        next_ms = GW__MIN(next_ms, send->oldest->queued_ms + send->max_age_ms);
    if (shard->state != GW__LIVE || gw__link_wants_write(&shard->link) || shard->link.write_failed)
        return next_ms;
    gw__send_next(send, now_ms, &leave_ms);
    leave_ms = GW__MIN(leave_ms, gw__send_presence_ms(send));
    if (leave_ms == GW__NEVER) return next_ms;
    free_ms = gw__send_free_ms(send, shard->session.interval_ms, now_ms);
    return GW__MIN(next_ms, GW__MAX(leave_ms, free_ms));
}

/* ---- the beginning of a connection ---- */
static void gw__shard_connect(gw__shard *shard, uint64_t now_ms)
{
    const gw__url *url = gw__session_url(&shard->session, &shard->shared->gateway_url);
    /* zero to its end, as all of it is kept: no old stack */
    char target[GW__PATH_MAX] = "";
    char text[GW__HOST_MAX + GW__PATH_MAX + 32], d[GW__HOST_MAX + GW__PATH_MAX + 96];
    size_t len;
    memset(&shard->fault, 0, sizeof shard->fault);
    shard->detail = 0;
    shard->close_reason[0] = 0;
    shard->session_was_lost = 0;
    /* 1000 and 1001 would end the session. Discord docs, "Initiating a Disconnect" */
    shard->own_close = 4000;
    shard->hold_told = 0;
    shard->server_wait_ms = 0;
    shard->beat_is_owed = 0;
    shard->sleeps = shard->shared->sleeps;      /* a connection made after waking is not old */
    gw__session_begin_connection(&shard->session);
    gw__send_begin_connection(&shard->send);
    gw__link_open(&shard->link, url, (uint64_t)++shard->shared->connections << 32 | shard->index,
                  now_ms);
    gw__url_gateway_target(url, NULL, target, sizeof target);
    memcpy(shard->link.url.target, target, sizeof target);
    gw__url_write(&shard->link.url, text, sizeof text);
    len = gw__text_format(d, sizeof d, "{\"url\":");
    len += gw_quote(text, strlen(text), d + len, sizeof d - len - 1);
    memcpy(d + len, "}", 2);
    gw__notice_push(shard->shared, GW_CONNECTING, shard->id, text, d);
    shard->connects++;
    gw__shard_enter(shard, GW__LINKING, now_ms, text);
}

/* config.identify_gate said never: the shard stops, nothing is wrong with the rest. */
static void gw__shard_never(gw__shard *shard, uint64_t now_ms)
{
    memset(&shard->fault, 0, sizeof shard->fault);
    gw__fault_set(&shard->fault, GW_REASON_BY_CALLER, 0, "config.identify_gate said never");
    gw__shard_retire(shard, 1, now_ms);
}

/* Once a wait, and not for the few seconds between two Identifies. */
static void gw__shard_tell_held(gw__shard *shard, const char *why)
{
    gw_event *event;
    if (shard->hold_told) return;
    shard->hold_told = 1;
    event = gw__notice_push(shard->shared, GW_IDENTIFY_HELD, shard->id, why, NULL);
    if (!event) return;
    event->in_ms = shard->wait_ms;
    event->reason = GW_REASON_BUDGET;
}

/* The caller's own gate, for fleets; asked only when ours has given its permit. */
static int32_t gw__shard_ask_caller(gw__shard *shard)
{
    gw__shared *shared = shard->shared;
    int32_t answer;
    if (!shared->identify_gate) return 0;
    shared->net.in_hook = 1;
    answer = shared->identify_gate(shared->net.user, shard->id,
                                   (uint32_t)shard->id % shared->gate.concurrency);
    shared->net.in_hook = 0;
    return answer;
}

/* The caller has not heard yet how the last connection ended: he would take that end for one of the
 * go that he gives now, which would then count as given back. */
static int gw__shard_has_end_to_tell(const gw__shard *shard)
{
    const gw__notices *notices = &shard->shared->notices;
    uint32_t i;
    for (i = 0; i < notices->count; i++) {
        const gw_event *event = &notices->ring[(notices->first + i) % GW__NOTICES_MAX].event;
        if (event->shard == shard->id &&
            (event->type == GW_DISCONNECTED || event->type == GW_SHARD_STOPPED)) return 1;
    }
    return 0;
}

/* The gate, ours and then the caller's. 1: the shard holds a permit; else it knows how long to
 * wait. */
static int gw__shard_take_permit(gw__shard *shard, uint64_t now_ms)
{
    gw__gate *gate = &shard->shared->gate;
    int by_budget = 0;
    uint64_t wait_ms;
    char text[128];
    int32_t answer;
    if (shard->shared->identify_gate && gw__shard_has_end_to_tell(shard)) {
        shard->wait_ms = 1;
        return 0;
    }
    gw__gate_tell_time(gate, gw__shared_known_time(shard->shared), now_ms);
    wait_ms = gw__gate_take(gate, shard->id, now_ms, &by_budget);
    if (wait_ms) {
        shard->wait_ms = (uint32_t)GW__MIN(wait_ms, UINT32_MAX);
        if (by_budget) {
            gw__text_format(text, sizeof text,
                            "no Identify is left; at the limit Discord would reset the token; the next "
                            "in %u h %u min", (unsigned)(wait_ms / 3600000u),
                            (unsigned)(wait_ms / 60000u % 60u));
            gw__shard_tell_held(shard, text);
        }
        return 0;
    }
    answer = gw__shard_ask_caller(shard);
    shard->has_permit = answer == 0;
    if (answer == 0) return 1;
    gw__gate_return(gate, shard->id, now_ms);
    if (answer < 0) {
        gw__shard_never(shard, now_ms);
        return 0;
    }
    shard->wait_ms = (uint32_t)answer;
    gw__shard_tell_held(shard, "config.identify_gate says wait");
    return 0;
}

/* From WAITING or GATED: a Resume goes at once, an Identify needs the URL and a permit. */
static void gw__shard_start(gw__shard *shard, uint64_t now_ms)
{
    gw__shared *shared = shard->shared;
    if (gw__session_can_resume(&shard->session) &&
        (shard->session.resume_url.host[0] || shared->has_gateway_url)) {
        gw__shard_connect(shard, now_ms);
        return;
    }
    shared->info_wanted |= !shared->knows_limits;
    shard->wait_ms = 60000;         /* /gateway/bot is being asked; its answer calls us at once */
    if (shared->knows_limits && gw__shard_take_permit(shard, now_ms))
        gw__shard_connect(shard, now_ms);
    else if (shard->state != GW__STOPPED)
        gw__shard_enter(shard, GW__GATED, now_ms, "an Identify needs a permit");
}

static gw__step gw__shard_link(gw__shard *shard, uint64_t now_ms)
{
    gw__trust_clock clock = gw__shared_clock(shard->shared);
    gw__link_state before = shard->link.state;
    gw__tls_ticket *ticket = gw__shared_ticket(shard->shared, &shard->link.url);
    /* No payload comes now: its memory is the handshake's. */
    if (!shard->has_event && !shard->in_hand) gw__buf_free(&shard->payload);
    switch (gw__link_step(&shard->link, &shard->shared->trust, &clock, ticket, now_ms)) {
    case GW__LINK_ENDED:
        /* it may be what the peer did not like */
        if (before == GW__LINK_SECURING) gw__mem_wipe(ticket, sizeof *ticket);
        return gw__shard_fail_as(shard, &shard->link.fault, now_ms);
    case GW__LINK_OPEN: break;
    default:
        return shard->link.state != before || gw__link_has_work(&shard->link) ? GW__STEP_MORE
                                                                              : GW__STEP_IDLE;
    }
    if (shard->link.tls) gw__tls_save(shard->link.tls, ticket);
    gw__http_begin(&shard->http, &shard->shared->mem, 1024, 1);
    if (!gw__net_random(&shard->shared->net, shard->nonce, sizeof shard->nonce) ||
        !gw__http_write_upgrade(&shard->link.out, &shard->link.url, shard->link.url.target,
                                shard->nonce))
        return gw__shard_fail(shard, GW_REASON_MEMORY, "the upgrade request could not be written",
                              now_ms);
    gw__link_flush(&shard->link);
    gw__shard_enter(shard, GW__UPGRADING, now_ms, "the link is open");
    return GW__STEP_MORE;
}

#define GW__KEEP_BYTES 16384u               /* of a payload buffer, after a large payload */

/* Nothing came out of the link; what went into it counts in the turn all the same. */
static gw__step gw__shard_idles(gw__shard *shard)
{
    if (!shard->in_message && !shard->has_event) {
        gw__buf_clear(&shard->payload);
        gw__buf_shrink(&shard->payload, GW__KEEP_BYTES);
    }
    shard->shared->turn_bytes += shard->link.moved;
    return shard->link.moved ? GW__STEP_MORE : GW__STEP_IDLE;
}

static gw__step gw__shard_upgrade(gw__shard *shard, uint64_t now_ms)
{
    gw__http_found found;
    size_t len, used = 0;
    const uint8_t *bytes = gw__link_peek(&shard->link, &len, now_ms);
    if (bytes) {
        found = gw__http_push(&shard->http, bytes, len, &used);
        gw__link_take(&shard->link, used);
    } else {
        if (shard->link.state != GW__LINK_ENDED) return gw__shard_idles(shard);
        found = gw__http_end(&shard->http);
        if (found != GW__HTTP_DONE) return gw__shard_fail_as(shard, &shard->link.fault, now_ms);
    }
    if (found == GW__HTTP_NEED_MORE) return GW__STEP_MORE;
    if (found == GW__HTTP_BROKEN) return gw__shard_fail_as(shard, &shard->http.fault, now_ms);
    if (!gw__http_check_upgrade(&shard->http, shard->nonce, &shard->fault)) {
        shard->server_wait_ms = gw__http_wait_ms(&shard->http);
        shard->detail = shard->fault.code;
        return gw__shard_end(shard, now_ms);
    }
    gw__http_free(&shard->http);
    gw__ws_begin(&shard->ws);
    shard->in_message = 0;
    gw__notice_push(shard->shared, GW_OPENED, shard->id, "the WebSocket is open; Hello is awaited",
                    NULL);
    gw__shard_enter(shard, GW__HELLO, now_ms, "101");
    return GW__STEP_MORE;
}

/* ---- a message, piece by piece ---- */
static int gw__shard_wants(const gw__shard *shard, uint32_t type)
{
    return (shard->shared->unwanted[type >> 6] >> (type & 63u) & 1u) == 0;
}

/* Read by the library itself, even where the caller does not want it. */
static int gw__shard_needs(const gw__shard *shard, uint32_t type)
{
    return (type == GW_RATE_LIMITED || type == GW_GUILD_MEMBERS_CHUNK) &&
           gw__send_awaits_answer(&shard->send);
}

static void gw__shard_begin_message(gw__shard *shard)
{
    gw__json_scan_begin(&shard->scan);
    gw__buf_clear(&shard->payload);
    shard->type = GW_UNKNOWN_DISPATCH;
    shard->in_d = shard->dropping = shard->oversize = shard->unwanted = shard->broken = 0;
    shard->message_bytes = shard->progress_bytes = shard->progress_ms = 0;
}

/* The rest of the payload is of no use: where all is known that counts, not even its brackets
 * need a look. */
static void gw__shard_drop_rest(gw__shard *shard)
{
    gw__buf_clear(&shard->payload);
    if (!shard->scan.has_op || !shard->scan.has_seq || !shard->scan.has_name) return;
    shard->dropping = 1;
    gw__ws_skip_message(&shard->ws);
}

static void gw__shard_on_name(gw__shard *shard)
{
    shard->type = gw__names_find(&shard->shared->names, shard->scan.name, shard->scan.name_len);
}

static void gw__shard_on_d_begin(gw__shard *shard)
{
    shard->in_d = 1;
    gw__buf_clear(&shard->payload);         /* of two keys "d" the last one counts */
    if (!shard->scan.has_name || !shard->scan.has_op || shard->scan.op != GW__OP_DISPATCH) return;
    if (gw__shard_wants(shard, shard->type) || gw__shard_needs(shard, shard->type)) return;
    shard->unwanted = 1;
    gw__shard_drop_rest(shard);
}

static void gw__shard_store(gw__shard *shard, const uint8_t *bytes, size_t len)
{
    const gw__shared *shared = shard->shared;
    if (shard->oversize || shard->unwanted) return;
    if (!shared->mem.block)
        gw__buf_expect(&shard->payload, len + shard->ws.payload_left);
    else if (!shard->payload.bytes)
        /* once; growing would need both */
        gw__buf_reserve(&shard->payload, shard->payload.max);
    if (gw__buf_append(&shard->payload, bytes, len)) return;
    shard->oversize = 1;
    gw__buf_free(&shard->payload);
    gw__shard_drop_rest(shard);
}

/* Scans a piece and stores what belongs to d. 1: it was seen to be ASCII. */
static int gw__shard_on_bytes(gw__shard *shard, const uint8_t *bytes, size_t len)
{
    size_t used;
    gw__json_found found = GW__JSON_NEED_MORE;
    shard->scan.is_text = 0;
    if (shard->message_bytes == 0 && gw__json_scan_usual(&shard->scan, bytes, len, &used)) {
        shard->message_bytes = len;
        bytes += used;
        len -= used;
        gw__shard_on_name(shard);
        gw__shard_on_d_begin(shard);
        shard->scan.is_text = shard->type == GW_UNKNOWN_DISPATCH;   /* its name may be anything */
    } else {
        shard->message_bytes += len;
    }
    while (len && !shard->dropping && !shard->broken) {
        found = gw__json_scan_next(&shard->scan, bytes, len, &used);
        if (shard->in_d) gw__shard_store(shard, bytes, used);
        bytes += used;
        len -= used;
        if (found == GW__JSON_NAME) gw__shard_on_name(shard);
        if (found == GW__JSON_D_BEGIN) gw__shard_on_d_begin(shard);
        if (found == GW__JSON_D_END) shard->in_d = 0;
        if (found == GW__JSON_BROKEN) shard->broken = 1;
        if (found == GW__JSON_NEED_MORE) break;
    }
    return len == 0 && !shard->scan.is_text;
}

/* ---- a message, whole ---- */
static void gw__shard_deliver(gw__shard *shard, const gw__payload *payload, uint64_t now_ms)
{
    gw_event *event = &shard->event;        /* what no dispatch has in it is 0 from the beginning */
    event->type = payload->type;
    event->shard = shard->id;
    if (!payload->type) gw__text_redact(shard->scan.name, shard->shared->identity.token);
    event->name = payload->type ? gw__dispatch_names[payload->type] : shard->scan.name;
    event->d = payload->d;
    event->seq = payload->seq;
    event->session = shard->session.number;
    event->replayed = shard->session.replaying;
    event->received_ms = now_ms;
    event->message = "";
    event->bytes = shard->message_bytes;
    shard->has_event = 1;
    shard->events++;
}

/* What is not handed out counts as taken, unless something before it still is in the caller's hand,
 * or on the way there. */
static void gw__shard_take_seq(gw__shard *shard, const gw__payload *payload)
{
    const gw__session *session = &shard->session;
    if (!payload->has_seq || shard->shared->ack_by_hand || shard->in_hand) return;
    if (shard->skips_to_tell) return;
    if (session->has_taken && payload->seq <= session->taken_seq) return;
    shard->session.taken_seq = payload->seq;
    shard->session.has_taken = 1;
}

/* The notice bears the payload's own name, a copy of which stands where d would. */
static void gw__shard_tell_skipped(gw__shard *shard, const gw__payload *payload)
{
    const char *name = shard->scan.has_name ? shard->scan.name : "a payload";
    char text[GW__NAME_MAX + 160];
    gw_event *event;
    gw__text_format(text, sizeof text,
                    "%s of %llu bytes did not fit (config.max_payload is %u) and was passed over",
                    name, (unsigned long long)shard->message_bytes,
                    (unsigned)shard->shared->max_payload);
    shard->skipped++;
    event = gw__notice_push(shard->shared, GW_SKIPPED, shard->id, text, name);
    if (!event) return;
    if (event->d.ptr) event->name = event->d.ptr;
    event->d.ptr = NULL;
    event->d.len = 0;
    event->seq = payload->seq;
    event->session = shard->session.number;
    event->bytes = shard->message_bytes;
    shard->skips_to_tell++;
}

/* ---- answers to requests for members ---- */

/* The request that this answers: of its guild, with its nonce; of several the oldest. */
static gw__send_item *gw__shard_asked(gw__shard *shard, uint64_t guild_id, const gw_json *nonce,
                                      uint32_t is_whole_list)
{
    gw__send_item *item;
    for (item = shard->send.oldest; item; item = item->next)
        if (item->is_asked && !item->dropped && item->guild_id == guild_id &&
            item->is_whole_list >= is_whole_list &&
            gw__members_nonce_is(gw__send_bytes(item), item->len, nonce)) return item;
    return NULL;
}

/* Discord docs, "Guild Members Chunk". */
static void gw__shard_on_chunk(gw__shard *shard, const gw_json *d)
{
    static const char *const paths[] = { "guild_id", "nonce", "chunk_count" };
    gw_json found[GW__COUNT(paths)];
    gw__send_item *item;
    gw_pick(d, paths, GW__COUNT(paths), found);
    item = gw__shard_asked(shard, gw_u64(&found[0], NULL), &found[1], 0);
    if (item && ++item->chunks >= gw_u64(&found[2], NULL)) gw__send_pop(&shard->send, item);
}

/* The request's ticket; 0: it is none of ours. It waits for its time, or is over. */
static gw_ticket gw__shard_on_rate_limited(gw__shard *shard, const gw_json *d, uint64_t now_ms,
                                           uint32_t *in_ms)
{
    gw_rate_limited limited;
    gw__send_item *item;
    gw_ticket ticket;
    gw_read_rate_limited(d, &limited);
    *in_ms = limited.retry_after_ms;
    if (limited.opcode != GW__OP_MEMBERS) return 0;
    /* it is the whole list that is limited */
    item = gw__shard_asked(shard, limited.guild_id, &limited.nonce, 1);
    if (!item) item = gw__shard_asked(shard, limited.guild_id, &limited.nonce, 0);
    if (!item) return 0;
    ticket = item->ticket;
    gw__send_refused(&shard->send, item, gw__shard_wants(shard, GW_RATE_LIMITED),
                     now_ms + limited.retry_after_ms);
    return ticket;
}

static gw__step gw__shard_dispatch(gw__shard *shard, const gw__payload *payload, uint64_t now_ms)
{
    gw_ticket ticket = 0;
    uint32_t in_ms = 0;
    if (shard->state == GW__RESUMING)
        shard->deadline_ms = gw__shard_deadline_ms(shard, GW__RESUMING, now_ms);
    if (shard->oversize) {
        if (payload->type == GW_GUILD_MEMBERS_CHUNK) gw__send_miss_answer(&shard->send);
        gw__shard_tell_skipped(shard, payload);
        return GW__STEP_MORE;
    }
    if (gw__shard_needs(shard, payload->type) && payload->type == GW_GUILD_MEMBERS_CHUNK)
        gw__shard_on_chunk(shard, &payload->d);
    if (payload->type == GW_RATE_LIMITED)
        ticket = gw__shard_on_rate_limited(shard, &payload->d, now_ms, &in_ms);
    if (shard->unwanted || !gw__shard_wants(shard, payload->type)) {
        shard->filtered++;
        gw__shard_take_seq(shard, payload);
        return GW__STEP_MORE;
    }
    gw__shard_deliver(shard, payload, now_ms);
    shard->event.ticket = ticket;
    shard->event.in_ms = in_ms;
    return GW__STEP_EVENT;
}

/* Identify or Resume did not leave. */
static gw__step gw__shard_fail_to_write(gw__shard *shard, uint64_t now_ms)
{
    if (shard->link.fault.reason) return gw__shard_fail_as(shard, &shard->link.fault, now_ms);
    if (!gw__send_may_leave(&shard->send, 0, 0, now_ms))
        return gw__shard_fail(shard, GW_REASON_PROTOCOL,
                              "the server asked for 120 heartbeats (op 1) before the handshake", now_ms);
    return gw__shard_fail(shard, GW_REASON_MEMORY,
                          "no memory, or no random bytes, for the handshake", now_ms);
}

/* Into the scratch buffer, with the newest presence; where both are too large for one payload, that
 * follows as op 3. */
static int gw__shard_write_identify(gw__shard *shard)
{
    gw__shared *shared = shard->shared;
    gw__send *send = &shard->send;
    const char *presence = gw__shard_presence(shard);
    if (gw__session_write_identify(&shared->scratch, &shared->identity, shard->id, presence) &&
        gw__buf_len(&shared->scratch) <= GW__SEND_BYTES_MAX) {
        send->presence_waits = 0;
        return 1;
    }
    gw__buf_clear(&shared->scratch);
    if (!send->presence_waits) send->presence_ticket = 0;
    send->presence_waits = presence != NULL;
    return gw__session_write_identify(&shared->scratch, &shared->identity, shard->id, NULL);
}

static gw__step gw__shard_identify(gw__shard *shard, uint64_t now_ms)
{
    gw__shared *shared = shard->shared;
    if (!shard->has_permit)
        return gw__shard_fail(shard, GW_REASON_BUDGET, "an Identify has no permit", now_ms);
    if (!gw__shard_write_scratch(shard, gw__shard_write_identify(shard), now_ms))
        return gw__shard_fail_to_write(shard, now_ms);
    shard->has_permit = 0;
    gw__gate_spend(&shared->gate, shard->id, now_ms, gw__shared_known_time(shared));
    shard->identifies++;
    shard->session.has_shaken = shard->session.identified = 1;
    gw__notice_push(shared, GW_IDENTIFYING, shard->id,
                    "an Identify was sent: a new session begins", NULL);
    gw__shard_enter(shard, GW__IDENTIFYING, now_ms, "Hello came, there is no session to resume");
    return GW__STEP_MORE;
}

static gw__step gw__shard_resume(gw__shard *shard, uint64_t now_ms)
{
    gw__shared *shared = shard->shared;
    int written = gw__session_write_resume(&shared->scratch, &shard->session,
                                           shared->identity.token);
    if (!gw__shard_write_scratch(shard, written, now_ms))
        return gw__shard_fail_to_write(shard, now_ms);
    shard->session.resumes_unanswered++;
    shard->session.has_shaken = shard->session.replaying = 1;
    shard->resumes++;
    gw__shard_enter(shard, GW__RESUMING, now_ms, "Hello came, the session lives");
    return GW__STEP_MORE;
}

static gw__step gw__shard_on_ready(gw__shard *shard, const gw__payload *payload, uint64_t now_ms)
{
    gw__fault refused;
    gw_ready ready;
    memset(&refused, 0, sizeof refused);
    gw_read_ready(&payload->d, &ready);
    gw__session_take_ready(&shard->session, &ready, &shard->shared->gateway_url,
                           shard->shared->identity.token, &refused);
    if (refused.reason)
        gw__log(&shard->shared->logger, GW_LOG_WARN, shard->id, "%s; resuming at the cached URL",
                refused.text);
    if (ready.user_id) shard->shared->user_id = ready.user_id;
    if (ready.application_id) shard->shared->application_id = ready.application_id;
    if (!shard->session.id[0])
        gw__log(&shard->shared->logger, GW_LOG_WARN, shard->id,
                "READY brought no usable session_id: this session cannot be resumed");
    shard->session.begun = 1;
    shard->session.number++;
    shard->session.has_taken = 0;
    shard->session.ready_ms = shard->session.live_ms = now_ms;
    gw__session_on_ready(&shard->session);
    shard->shared->gateway_url_failures = 0;
    gw__shard_enter(shard, GW__LIVE, now_ms, "READY");
    return gw__shard_dispatch(shard, payload, now_ms);
}

static gw__step gw__shard_on_resumed(gw__shard *shard, const gw__payload *payload, uint64_t now_ms)
{
    gw__session_on_ready(&shard->session);
    shard->session.live_ms = now_ms;
    gw__shard_enter(shard, GW__LIVE, now_ms, "RESUMED");
    return gw__shard_dispatch(shard, payload, now_ms);
}

static gw__step gw__shard_on_message(gw__shard *shard, uint64_t now_us)
{
    gw__payload payload;
    uint64_t now_ms = now_us / 1000u;
    uint32_t random = 0;
    memset(&payload, 0, sizeof payload);
    payload.op = shard->scan.op;
    payload.has_op = shard->scan.has_op;
    payload.seq = shard->scan.seq;
    payload.has_seq = shard->scan.has_seq;
    payload.d_is_lost = shard->oversize;
    /* of two keys "t", null may be the last */
    payload.type = shard->scan.has_name ? shard->type : (uint32_t)GW_UNKNOWN_DISPATCH;
    if (!shard->oversize && !shard->unwanted && shard->scan.has_d) {
        payload.d.ptr = (const char *)gw__buf_data(&shard->payload);
        payload.d.len = gw__buf_len(&shard->payload);
    }
    shard->payload_bytes += shard->message_bytes;
    gw__shard_trace_received(shard, &payload);
    /* a system call */
    if (payload.op == GW__OP_HELLO) random = gw__shared_random(shard->shared);
    switch (gw__session_on_payload(&shard->session, &payload, now_us, random, &shard->fault,
                                   &shard->detail)) {
    case GW__ACT_NOTHING:  return GW__STEP_MORE;
    case GW__ACT_DELIVER:  return gw__shard_dispatch(shard, &payload, now_ms);
    case GW__ACT_IDENTIFY: return gw__shard_identify(shard, now_ms);
    case GW__ACT_RESUME:   return gw__shard_resume(shard, now_ms);
    case GW__ACT_BEAT:     gw__shard_beat(shard, now_us); return GW__STEP_MORE;
    case GW__ACT_READY:    return gw__shard_on_ready(shard, &payload, now_ms);
    case GW__ACT_RESUMED:  return gw__shard_on_resumed(shard, &payload, now_ms);
    case GW__ACT_END:      return gw__shard_end(shard, now_ms);
    }
    return GW__STEP_MORE;
}

static gw__step gw__shard_end_message(gw__shard *shard, uint64_t now_us)
{
    if (shard->broken || (!shard->dropping && shard->scan.place != GW__JSON_BEHIND)) {
        gw__fault_set(&shard->fault, GW_REASON_PROTOCOL, 0,
                      "a payload is not JSON as the Gateway sends it: %s",
                      shard->broken ? shard->scan.why : "it ends too early");
        return gw__shard_end(shard, now_us / 1000u);
    }
    return gw__shard_on_message(shard, now_us);
}

/* gw_hold() holds it back. */
static int gw__shard_may_hand_out(const gw__shard *shard)
{
    return !shard->held || shard->held_passes;
}

/* ---- reading ---- */

#define GW__PROGRESS_BYTES 16384u

/* The peer's Close: answered with its own code, except 1000 and 1001, which would end the
 * session. */
static gw__step gw__shard_on_close(gw__shard *shard, const gw__ws_piece *piece, uint64_t now_ms)
{
    char *reason = shard->close_reason;
    gw__text_printable(reason, sizeof shard->close_reason, piece->bytes, piece->len);
    shard->own_close = piece->close_code <= 1001 ? 4000 : piece->close_code;
    shard->detail = piece->close_code;
    if (piece->close_code)
        gw__fault_set(&shard->fault, GW_REASON_CLOSE_CODE, piece->close_code,
                      "closed by the server with %u%s%s%s", (unsigned)piece->close_code,
                      reason[0] ? " (" : "", reason, reason[0] ? ")" : "");
    else
        gw__fault_set(&shard->fault, GW_REASON_CLOSE_CODE, 0,
                      "closed by the server without a code");
    return gw__shard_end(shard, now_ms);
}

static gw__step gw__shard_on_control(gw__shard *shard, const gw__ws_piece *piece, uint64_t now_ms)
{
    if (piece->opcode == GW__WS_CLOSE) return gw__shard_on_close(shard, piece, now_ms);
    /* a flood is not answered for ever */
    if (piece->opcode == GW__WS_PING && gw__buf_len(&shard->link.out) < 4096)
        gw__shard_write_frame(shard, GW__WS_PONG, piece->bytes, piece->len);
    return GW__STEP_MORE;
}

/* A large message over a slow line: as long as it comes in, the answer to our Resume, or an ACK,
 * can stand behind it. */
static void gw__shard_note_progress(gw__shard *shard)
{
    if (shard->message_bytes - shard->progress_bytes < GW__PROGRESS_BYTES) return;
    shard->progress_bytes = shard->message_bytes;
    shard->progress_ms = shard->heard_ms;
    if (shard->state == GW__RESUMING)
        shard->deadline_ms = gw__shard_deadline_ms(shard, GW__RESUMING, shard->heard_ms);
}

/* The stream is not WebSocket any more, or not as RFC 6455 has it. */
static gw__step gw__shard_on_broken(gw__shard *shard, uint64_t now_ms)
{
    shard->own_close = shard->ws.close_code;
    gw__fault_set(&shard->fault, GW_REASON_PROTOCOL, 0, "WebSocket: %s", shard->ws.why);
    return gw__shard_end(shard, now_ms);
}

/* The piece lies in the link's buffer: its bytes are taken before anything that may drop the link.
 * What turns out to be unwanted is not checked. */
static gw__step gw__shard_on_data(gw__shard *shard, const gw__ws_piece *piece, size_t used,
                                  uint64_t now_us)
{
    gw__ws_found found = GW__WS_DATA;
    if (piece->begins_message) gw__shard_begin_message(shard);
    shard->in_message = !piece->ends_message;
    if (piece->opcode == GW__WS_TEXT) {
        int is_ascii = gw__shard_on_bytes(shard, piece->bytes, piece->len);
        gw__shard_note_progress(shard);
        if (!shard->dropping) found = gw__ws_check(&shard->ws, piece, is_ascii);
    }
    gw__link_take(&shard->link, used);
    if (found == GW__WS_BROKEN) return gw__shard_on_broken(shard, now_us / 1000u);
    if (piece->opcode != GW__WS_TEXT) {
        shard->own_close = 1003;
        return gw__shard_fail(shard, GW_REASON_PROTOCOL,
                              "a binary message came, but no compression was asked for",
                              now_us / 1000u);
    }
    return piece->ends_message ? gw__shard_end_message(shard, now_us) : GW__STEP_MORE;
}

/* After our own Close nothing counts but the peer's answer. */
static gw__step gw__shard_read_closing(gw__shard *shard, uint64_t now_ms)
{
    gw__ws_piece piece;
    size_t len, used = 0;
    const uint8_t *bytes = gw__link_peek(&shard->link, &len, now_ms);
    gw__ws_found found;
    if (!bytes && shard->link.state != GW__LINK_ENDED) return gw__shard_idles(shard);
    if (bytes) {
        found = gw__ws_next(&shard->ws, bytes, len, &used, &piece);
        gw__link_take(&shard->link, used);
        shard->shared->turn_bytes += used;
        if (found == GW__WS_DATA || found == GW__WS_NEED_MORE) return GW__STEP_MORE;
        if (found == GW__WS_CONTROL && piece.opcode != GW__WS_CLOSE) return GW__STEP_MORE;
    }
    return gw__shard_end(shard, now_ms);
}

/* One piece of what came in, and what follows from it. */
static gw__step gw__shard_read_piece(gw__shard *shard, const uint8_t *bytes, size_t len,
                                     size_t *used, uint64_t now_us)
{
    gw__ws_piece piece;
    gw__ws_found found = gw__ws_next_unchecked(&shard->ws, bytes, len, used, &piece);
    shard->shared->turn_bytes += *used;
    if (found == GW__WS_DATA) return gw__shard_on_data(shard, &piece, *used, now_us);
    if (found == GW__WS_BROKEN) return gw__shard_on_broken(shard, now_us / 1000u);
    gw__link_take(&shard->link, *used);
    if (found == GW__WS_NEED_MORE) return GW__STEP_MORE;
    /* may sit between fragments (RFC 6455 section 5.4); its payload lies in the ws */
    return gw__shard_on_control(shard, &piece, now_us / 1000u);
}

/* Events that nobody wants are passed over as one, as far as they lie in one record. */
static gw__step gw__shard_read(gw__shard *shard, uint64_t now_us)
{
    size_t len, used = 0;
    uint64_t filtered;
    gw__step step;
    const uint8_t *bytes = gw__link_peek(&shard->link, &len, now_us / 1000u);
    if (!bytes && shard->link.state != GW__LINK_ENDED) return gw__shard_idles(shard);
    if (!bytes) return gw__shard_fail_as(shard, &shard->link.fault, now_us / 1000u);
    shard->heard_ms = now_us / 1000u;
    do {
        filtered = shard->filtered;
        step = gw__shard_read_piece(shard, bytes, len, &used, now_us);
        bytes += used;
        len -= used;
    } while (len && shard->filtered != filtered && !shard->link.held);
    return step;
}

static gw__step gw__shard_step(gw__shard *shard, uint64_t now_us)
{
    switch (shard->state) {
    case GW__LINKING:   return gw__shard_link(shard, now_us / 1000u);
    case GW__UPGRADING: return gw__shard_upgrade(shard, now_us / 1000u);
    case GW__HELLO: case GW__IDENTIFYING: case GW__RESUMING: case GW__LIVE:
        return gw__shard_read(shard, now_us);
    case GW__CLOSING:   return gw__shard_read_closing(shard, now_us / 1000u);
    case GW__WAITING: case GW__GATED: case GW__STOPPED: case GW__STATE_COUNT:
        break;          /* nothing to read; only time or the gate moves us */
    }
    /* deadlines are looked at after this, so a caller's stall kills nothing that is alive */
    return GW__STEP_IDLE;
}

/* ---- time ---- */

#define GW__MESSAGE_PAUSE_MS 5000u      /* in the middle of a message; longer is silence */

/* All that the peer sent was read: silence is silence. */
static int gw__shard_is_drained(gw__shard *shard)
{
    return !shard->link.held && !shard->has_event && !gw__link_has_work(&shard->link);
}

/* Until when the rest of the message in hand is waited for, as an ACK may be behind it: while it
 * comes in without a long pause. Once we suspect, for an interval after the last 16 KiB of it, or a
 * trickle would keep a dead session for ever. */
static uint64_t gw__shard_rest_ms(const gw__shard *shard)
{
    uint64_t suspect_ms = shard->session.suspect_ms, until_ms = shard->heard_ms + GW__MESSAGE_PAUSE_MS;
    if (!shard->in_message) return 0;
    if (!suspect_ms) return until_ms;
    return GW__MIN(until_ms, GW__MAX(suspect_ms, shard->progress_ms) + shard->session.interval_ms);
}

static int gw__shard_is_silent(gw__shard *shard, uint64_t now_ms)
{
    return now_ms >= gw__shard_rest_ms(shard) && gw__shard_is_drained(shard);
}

#define GW__BEAT_AGAIN_MS 1000u

/* It never left, so nobody answers it. Where memory lacked, there may be some in a second. */
static void gw__shard_miss_beat(gw__shard *shard, uint64_t now_ms)
{
    gw__session *session = &shard->session;
    session->beat_unanswered = 0;
    if (!shard->beat_is_owed)
        session->next_beat_ms = GW__MIN(session->next_beat_ms, now_ms + GW__BEAT_AGAIN_MS);
}

/* The regular heartbeat. 0: the connection ended instead. */
static int gw__shard_on_beat(gw__shard *shard, uint64_t now_us)
{
    uint64_t now_ms = now_us / 1000u;
    uint64_t late_ms = now_ms > shard->session.next_beat_ms ? now_ms - shard->session.next_beat_ms
                                                            : 0;
    gw_event *event;
    if (gw__buf_len(&shard->link.out) >= GW__OUT_STUCK_BYTES)
        gw__session_end(&shard->fault, GW_REASON_NO_ACK,
                        "the server has long read nothing that we sent");
    if (shard->fault.reason ||
        gw__session_on_beat_due(&shard->session, gw__shard_is_silent(shard, now_ms), now_ms,
                                &shard->fault) == GW__ACT_END) {
        gw__shard_end(shard, now_ms);
        return 0;
    }
    if (!gw__shard_beat(shard, now_us)) gw__shard_miss_beat(shard, now_ms);
    if (shard->link.held && shard->link.fault.reason) {     /* not read, so the write has to tell */
        gw__shard_fail_as(shard, &shard->link.fault, now_ms);
        return 0;
    }
    if (late_ms < 1000) return 1;
    shard->polls_late++;
    event = gw__notice_push(
        shard->shared, GW_POLLED_LATE, shard->id,
        "a heartbeat left late: the loop that calls gw_poll() was busy, or the machine slept",
        NULL);
    if (event) event->in_ms = (uint32_t)GW__MIN(late_ms, UINT32_MAX);
    return 1;
}

/* The caller has not taken the notices that wait, so there is no place for another: a heartbeat
 * that is due leaves all the same, and what it means for the connection is judged later. */
static void gw__shard_beat_quietly(gw__shard *shard, uint64_t now_us)
{
    uint64_t now_ms = now_us / 1000u;
    if (!gw__shard_is_open(shard) || now_ms < shard->session.next_beat_ms) return;
    gw__session_on_beat_due(&shard->session, 0, now_ms, &shard->fault);
    if (!gw__shard_beat(shard, now_us)) gw__shard_miss_beat(shard, now_ms);
}

static void gw__shard_on_deadline(gw__shard *shard, uint64_t now_ms)
{
    switch (shard->state) {
    case GW__WAITING: case GW__GATED:
        if (!shard->stop_to_tell) gw__shard_start(shard, now_ms);
        return;
    case GW__LINKING:
        gw__link_expire(&shard->link, now_ms);
        gw__shard_fail_as(shard, &shard->link.fault, now_ms);
        return;
    case GW__CLOSING:
        gw__shard_end(shard, now_ms);
        return;
    case GW__UPGRADING: case GW__HELLO: case GW__RESUMING:
        gw__fault_set(&shard->fault, GW_REASON_TIMEOUT, 0, "%s: %s (%u s)", shard->link.url.host,
                      gw__state_timeout_text(shard->state),
                      (unsigned)(gw__state_timeout_ms(shard->state) / 1000u));
        gw__shard_end(shard, now_ms);
        return;
    case GW__IDENTIFYING: case GW__LIVE: case GW__STOPPED: case GW__STATE_COUNT:
        return;         /* no deadline */
    }
}

/* A passed deadline counts once all was read: what we wait for may lie there. But a flood of
 * something else holds it up no longer than that and 40 s, and gw_stop() not at all. */
static int gw__shard_is_overdue(gw__shard *shard, uint64_t now_ms)
{
    return shard->state == GW__CLOSING || gw__shard_is_drained(shard) ||
           (shard->state <= GW__HELLO &&
            now_ms - shard->deadline_ms >= 2 * gw__state_timeout_ms(GW__HELLO));
}

/* What is due by now: a heartbeat first, then the judgement over silence, deadlines, the queue. */
static void gw__shard_on_time(gw__shard *shard, uint64_t now_us)
{
    uint64_t now_ms = now_us / 1000u;
    if (now_ms >= shard->session.next_beat_ms && gw__shard_is_open(shard) &&
        !gw__shard_on_beat(shard, now_us))
        return;
    if (shard->beat_is_owed) gw__shard_beat(shard, now_us);
    if (gw__shard_is_open(shard)) {
        int silent = gw__shard_is_silent(shard, now_ms);
        if (gw__session_on_suspicion(&shard->session, silent, &shard->fault) == GW__ACT_END) {
            gw__shard_end(shard, now_ms);
            return;
        }
        if (shard->probe_deadline_is_set && !shard->session.ack_awaited)
            shard->probe_deadline_is_set = 0;
        if (shard->probe_deadline_is_set && silent && now_ms >= shard->probe_deadline_ms) {
            gw__shard_fail(shard, GW_REASON_NO_ACK,
                           "gw_recheck: the heartbeat that probed the connection was not answered",
                           now_ms);
            return;
        }
    }
    if (shard->state == GW__LINKING) shard->deadline_ms = shard->link.deadline_ms;
    if (now_ms >= shard->deadline_ms && gw__shard_is_overdue(shard, now_ms))
        gw__shard_on_deadline(shard, now_ms);
    gw__shard_pump(shard, now_ms);
}

/* When a connection that is suspected or probed can be judged; GW__NEVER: neither. */
static uint64_t gw__shard_verdict_ms(const gw__shard *shard, uint64_t now_ms)
{
    uint64_t silent_ms = GW__MAX(now_ms, gw__shard_rest_ms(shard)), verdict_ms = GW__NEVER;
    if (shard->probe_deadline_is_set) verdict_ms = GW__MAX(shard->probe_deadline_ms, silent_ms);
    return shard->session.suspect_ms ? GW__MIN(verdict_ms, silent_ms) : verdict_ms;
}

/* When gw__shard_on_time() or a step has something to do even if no socket stirs. */
static uint64_t gw__shard_next_ms(gw__shard *shard, uint64_t now_ms)
{
    uint64_t next_ms = shard->deadline_ms;
    if (shard->state == GW__LINKING) next_ms = gw__link_next_ms(&shard->link);
    if (gw__shard_is_open(shard)) next_ms = GW__MIN(next_ms, gw__shard_verdict_ms(shard, now_ms));
    if (shard->link.held) next_ms = GW__NEVER;          /* nobody is judged whom we do not read */
    if (gw__shard_is_open(shard)) next_ms = GW__MIN(next_ms, shard->session.next_beat_ms);
    if (gw__shard_is_open(shard) && shard->beat_is_owed)
        next_ms = GW__MIN(next_ms, gw__send_place_ms(&shard->send));
    return GW__MIN(next_ms, gw__shard_pump_ms(shard, now_ms));
}

/* LIVE, with nothing to send, to tell or to judge: a step that read has changed neither what the
 * pump has to do nor, but to a later time, when. */
static int gw__shard_is_quiet(const gw__shard *shard)
{
    const gw__link *link = &shard->link;
    const gw__send *send = &shard->send;
    if (shard->state != GW__LIVE) return 0;
    return !gw__buf_len(&link->out) && !link->full && !link->write_failed &&
           !shard->session.suspect_ms && !shard->probe_deadline_is_set && !shard->beat_is_owed &&
           !shard->stop_to_tell && !send->oldest && !send->to_tell && !send->presence_waits &&
           !send->has_written;
}

/* ---- by the caller ---- */

static int gw__shard_is_running(const gw__shard *shard)
{
    return shard->state != GW__STOPPED && shard->state != GW__CLOSING;
}

/* 1: stopped, and the caller has heard all of it. */
static int gw__shard_is_done(const gw__shard *shard)
{
    return shard->state == GW__STOPPED && !shard->has_event && !shard->send.to_tell &&
           !shard->stop_to_tell;
}

/* Our Close onto the wire: 1000 gives the session up, 4000 keeps it. */
static void gw__shard_write_stop(gw__shard *shard)
{
    uint8_t mask[4];
    if (gw__net_random(&shard->shared->net, mask, sizeof mask))
        gw__ws_write_close(&shard->link.out, shard->stop_how == GW_END ? 1000 : 4000, "", mask);
    gw__link_flush(&shard->link);
    shard->own_close = 0;
}

static void gw__shard_begin_stop(gw__shard *shard, uint32_t how)
{
    shard->stop_how = how;
    memset(&shard->fault, 0, sizeof shard->fault);
    gw__fault_set(&shard->fault, GW_REASON_BY_CALLER, 0, "%s",
                  how == GW_END ? "stopped, session ended" : "stopped, session kept");
    shard->detail = 0;
}

/* Ends it in order. A connection that stands waits for the peer's Close, one on its way is dropped;
 * both then come to their end in gw__shard_read_closing(). */
static void gw__shard_stop(gw__shard *shard, uint32_t how, uint64_t now_ms)
{
    int connects = shard->state == GW__LINKING || shard->state == GW__UPGRADING;
    uint32_t reason = shard->shared->fatal ? shard->shared->fatal : (uint32_t)GW_REASON_BY_CALLER;
    if (shard->state == GW__CLOSING || shard->state == GW__STOPPED) return;
    gw__shard_begin_stop(shard, how);
    if (gw__shard_is_open(shard)) gw__shard_write_stop(shard);
    if (connects) gw__link_drop(&shard->link);
    if (connects || gw__shard_is_open(shard)) {
        gw__shard_return_permit(shard, now_ms);
        gw__send_drop_all(&shard->send, reason, now_ms);
        gw__shard_enter(shard, GW__CLOSING, now_ms, "stopped by the caller");
        return;
    }
    gw__send_drop_all(&shard->send, reason, now_ms);
    if (how == GW_END) gw__shard_lose_session(shard, 0);
    gw__shard_retire(shard, 0, now_ms);
}

/* Ends it at once: when this returns, nothing of the shard is sent any more. */
static void gw__shard_cut(gw__shard *shard, uint32_t how, uint64_t now_ms)
{
    gw__shard_begin_stop(shard, how);
    shard->own_close = how == GW_END ? 1000 : 4000;
    gw__shard_goodbye(shard);
    shard->has_event = 0;               /* what was not handed out was not taken */
    gw__send_drop_all(&shard->send, GW_REASON_BY_CALLER, now_ms);
    if (how == GW_END) gw__shard_lose_session(shard, 0);
    gw__shard_retire(shard, 1, now_ms);
}

/* ==========================================================================
 * >> room: discover -- GET /gateway/bot: ask, retry, and read the answer.
 *    Knows:  that one request of Discord's HTTP API, its limits, when to ask again.
 *    Not:    what is done with the answer.
 *    Source: Discord docs, "Get Gateway Bot".
 * ========================================================================== */

#define GW__DISCOVER_BODY_MAX 16384u
#define GW__DISCOVER_TIMEOUT_MS 20000u      /* from the request to the whole answer */

typedef struct gw__gateway_info {
    char url[GW__HOST_MAX + GW__PATH_MAX];
    uint32_t shards, total, remaining, max_concurrency;
    uint64_t reset_after_ms;
} gw__gateway_info;

typedef enum gw__discover_found {
    GW__DISCOVER_WAITING,
    GW__DISCOVER_MORE,
    GW__DISCOVER_DONE,
    GW__DISCOVER_FAILED
} gw__discover_found;

typedef struct gw__discover {
    gw__link link;
    gw__http http;
    gw__url url;
    const char *token;
    uint32_t asked;                         /* the request is on its way */
    uint32_t is_active;
    uint32_t tries;
    uint64_t deadline_ms;  /* of the answer; while nothing is asked: when to ask again */
    gw__gateway_info info;
    gw__fault fault;
    uint32_t is_final;                      /* the failure is one that no repetition mends */
} gw__discover;

static uint32_t gw__discover_number(const gw_json *body, const char *path, uint32_t least,
                                    uint32_t most, uint32_t absent)
{
    uint64_t value = gw_u64(body, path);
    if (gw_kind_of(body, path) != GW_NUMBER) return absent;
    return (uint32_t)GW__MAX(least, GW__MIN(value, most));
}

/* Every number of the peer's is bounded; only the URL must be there. */
static int gw__discover_read(const char *body, size_t len, gw__gateway_info *info, gw__fault *fault)
{
    gw_json v;
    gw__url url;
    size_t url_len;
    memset(&v, 0, sizeof v);
    memset(info, 0, sizeof *info);
    v.ptr = body;
    v.len = len;
    url_len = gw_text(&v, "url", info->url, sizeof info->url);
    if (!gw__json_is_valid(body, len) || url_len == 0 || url_len >= sizeof info->url) {
        gw__fault_set(fault, GW_REASON_HTTP, 200,
                      "HTTP: the answer of /gateway/bot is not the JSON that Discord documents");
        return 0;
    }
    if (!gw__url_parse(&url, info->url, url_len, fault) || !gw__url_fits_gateway(&url, fault)) {
        fault->reason = GW_REASON_HTTP;
        return 0;
    }
    info->shards = gw__discover_number(&v, "shards", 1, 1000000, 1);
    info->total =
        gw__discover_number(&v, "session_start_limit.total", 1, 1000000, GW__IDENTIFY_DAY_LIMIT);
    info->remaining = gw__discover_number(&v, "session_start_limit.remaining", 0, 1000000,
                                          GW__IDENTIFY_DAY_LIMIT);
    info->reset_after_ms = gw__discover_number(&v, "session_start_limit.reset_after", 0,
                                               2 * GW__IDENTIFY_DAY_MS, GW__IDENTIFY_DAY_MS);
    info->max_concurrency =
        gw__discover_number(&v, "session_start_limit.max_concurrency", 1, GW__CONCURRENCY_MAX, 1);
    return 1;
}

static void gw__discover_init(gw__discover *discover, gw__net *net)
{
    memset(discover, 0, sizeof *discover);
    gw__link_init(&discover->link, net);
    discover->deadline_ms = GW__NEVER;
}

static void gw__discover_end(gw__discover *discover)
{
    gw__link_drop(&discover->link);
    gw__http_free(&discover->http);
    discover->is_active = discover->asked = 0;
    discover->deadline_ms = GW__NEVER;
}

static int gw__discover_begin(gw__discover *discover, const char *base_url, const char *token,
                              uint64_t tag, uint64_t now_ms)
{
    /* zero to its end, as all of it is kept: no old stack */
    char target[GW__PATH_MAX] = "";
    size_t len;
    gw__discover_end(discover);
    memset(&discover->fault, 0, sizeof discover->fault);
    discover->is_final = 0;
    discover->token = token;
    if (!gw__url_parse(&discover->url, base_url, strlen(base_url), &discover->fault) ||
        !gw__url_allowed(&discover->url, &discover->fault)) {
        discover->is_final = 1;
        return 0;
    }
    len = strlen(discover->url.target);
    while (len && discover->url.target[len - 1] == '/') len--;
    gw__text_format(target, sizeof target, "%.*s/api/v10/gateway/bot", (int)len,
                    discover->url.target);
    memcpy(discover->url.target, target, sizeof target);
    gw__link_open(&discover->link, &discover->url, tag, now_ms);
    gw__http_begin(&discover->http, discover->link.net->mem, GW__DISCOVER_BODY_MAX, 0);
    discover->http.body.max++;          /* for the 0 that ends it as a text */
    discover->is_active = 1;
    discover->deadline_ms = GW__NEVER;
    return 1;
}

static gw__discover_found gw__discover_fail(gw__discover *discover, const gw__fault *fault)
{
    discover->fault = *fault;
    gw__text_redact(discover->fault.text, discover->token);
    return GW__DISCOVER_FAILED;
}

/* protocol: 401 is final, so are 400, 403 and 404; 429 and 5xx are not. */
static gw__discover_found gw__discover_refused(gw__discover *discover)
{
    const gw__http *http = &discover->http;
    char piece[160];
    const char *body = http->body.bytes ? (const char *)http->body.bytes + http->body.begin : "";
    const char *advice = "";
    if (http->status == 401)
        advice = "the bot token is wrong or was reset: get a new one from the Developer Portal";
    else if (http->status == 429) advice = "too many requests; asked again later";
    else if (http->status >= 500) advice = "Discord has an outage; asked again later";
    else if (http->status >= 400) advice = "blocked, or the address is wrong";
    else advice = "redirects are not followed: the token must not travel elsewhere";
    gw__text_printable(piece, sizeof piece, body, gw__buf_len(&http->body));
    gw__text_redact(piece, discover->token);
    gw__fault_set(&discover->fault, GW_REASON_HTTP, http->status, "HTTP %d from %s%s: %s%s%s",
                  (int)http->status, discover->url.host, discover->url.target, advice,
                  piece[0] ? "; it says: " : "", piece);
    /* a server may send back what we sent */
    gw__text_redact(discover->fault.text, discover->token);
    discover->is_final = http->status >= 300 && http->status < 500 && http->status != 429 &&
                         http->status != 408;
    return GW__DISCOVER_FAILED;
}

static gw__discover_found gw__discover_answered(gw__discover *discover)
{
    if (discover->http.status != 200) return gw__discover_refused(discover);
    if (!gw__discover_read((const char *)gw__buf_data(&discover->http.body),
                           gw__buf_len(&discover->http.body), &discover->info, &discover->fault))
        return GW__DISCOVER_FAILED;
    return GW__DISCOVER_DONE;
}

static gw__discover_found gw__discover_connect(gw__discover *discover, gw__trust *trust,
                                               const gw__trust_clock *clock, uint64_t now_ms)
{
    gw__link_state before = discover->link.state;
    switch (gw__link_step(&discover->link, trust, clock, NULL, now_ms)) {
    case GW__LINK_ENDED: return gw__discover_fail(discover, &discover->link.fault);
    case GW__LINK_OPEN: break;
    default:
        return discover->link.state != before || gw__link_has_work(&discover->link)
            ? GW__DISCOVER_MORE : GW__DISCOVER_WAITING;
    }
    discover->deadline_ms = now_ms + GW__DISCOVER_TIMEOUT_MS;
    discover->asked = 1;
    if (!gw__http_write_get(&discover->link.out, &discover->url, discover->url.target,
                            discover->token)) {
        gw__fault_set(&discover->link.fault, GW_REASON_MEMORY, 0,
                      "no memory for the request of /gateway/bot");
        return gw__discover_fail(discover, &discover->link.fault);
    }
    gw__link_flush(&discover->link);
    return GW__DISCOVER_MORE;
}

static gw__discover_found gw__discover_step(gw__discover *discover, gw__trust *trust,
                                            const gw__trust_clock *clock, uint64_t now_ms)
{
    gw__http_found found;
    const uint8_t *bytes;
    size_t len, used = 0;
    if (!discover->asked) return gw__discover_connect(discover, trust, clock, now_ms);
    bytes = gw__link_peek(&discover->link, &len, now_ms);
    if (bytes) {
        found = gw__http_push(&discover->http, bytes, len, &used);
        gw__link_take(&discover->link, used);
    } else {
        if (discover->link.state != GW__LINK_ENDED)
            return discover->link.moved ? GW__DISCOVER_MORE : GW__DISCOVER_WAITING;
        found = gw__http_end(&discover->http);
        if (found != GW__HTTP_DONE) return gw__discover_fail(discover, &discover->link.fault);
    }
    if (found == GW__HTTP_BROKEN) return gw__discover_fail(discover, &discover->http.fault);
    return found == GW__HTTP_DONE ? gw__discover_answered(discover) : GW__DISCOVER_MORE;
}

static uint64_t gw__discover_next_ms(const gw__discover *discover)
{
    return discover->is_active && discover->link.state != GW__LINK_OPEN
        ? GW__MIN(gw__link_next_ms(&discover->link), discover->deadline_ms) : discover->deadline_ms;
}

/* The deadline has passed: of the way, or of the answer. */
static gw__discover_found gw__discover_expire(gw__discover *discover, uint64_t now_ms)
{
    if (discover->link.state != GW__LINK_OPEN && now_ms >= discover->link.deadline_ms)
        gw__link_expire(&discover->link, now_ms);
    else if (discover->asked && now_ms >= discover->deadline_ms)
        gw__fault_set(&discover->link.fault, GW_REASON_TIMEOUT, 0,
                      "%s did not answer GET /gateway/bot in %u s", discover->url.host,
                      (unsigned)(GW__DISCOVER_TIMEOUT_MS / 1000u));
    else return GW__DISCOVER_WAITING;
    return gw__discover_fail(discover, &discover->link.fault);
}

/* ==========================================================================
 * >> room: client -- shards, timers, fairness, the budget of a turn; events out.
 *    Knows:  all rooms above; the caller's config and calls.
 *    Not:    the protocol.
 * ========================================================================== */

#ifndef GW_MAX_TOKENS
/* of an event that is looked into; a larger one is walked without tokens */
#define GW_MAX_TOKENS 65536u
#endif
#define GW__BLOCK_TOKENS 256u               /* ... out of a fixed block */
#ifndef GW_API_URL
#define GW_API_URL "https://discord.com"
#endif
#define GW__TAG_DISCOVER 0xFFFFFFF0u        /* the low half of its connections' tags */
#define GW__TEND_STEPS 64u                  /* of one gw_tend() */
#define GW__PROBE_MS 5000u                  /* for the ACK that gw_recheck() asks for */
#define GW__BEATS_ALONG 100u                /* a beat may leave a hundredth of its interval early */
#define GW__SLEPT_MS 10000u                 /* a shorter suspend is bridged by TCP */
#define GW__REDISCOVER_AFTER 3u             /* failed connects to the cached URL in a row */
#define GW__SHARDS_MAX 16384u               /* that /gateway/bot can make us run */

enum { GW__TEXT_TOKEN, GW__TEXT_CA_FILE, GW__TEXT_CA_PEM, GW__TEXT_PRESENCE, GW__TEXT_COUNT };

typedef struct gw__due {                    /* when a shard has something to do */
    uint64_t next_ms;
    int32_t id;
    uint32_t index;                         /* in the client's list */
} gw__due;

#define GW__LISTED_BYTES (sizeof(gw__shard *) + sizeof(gw__due) + sizeof(uint32_t))     /* of a shard */

struct gw_client {
    gw__shared shared;                      /* first: what the shards see of us */
    /* by index; in front of them, in the same memory, the heap, and behind them its places */
    gw__shard **shards;
    gw__due *heap;                          /* the shard whose time comes first on top */
    uint32_t *heap_at;                      /* by index: its place in the heap */
    uint32_t shard_count, shard_cap;
    uint32_t shards_as_advised;             /* GW_ALL: /gateway/bot says how many, once */
    uint32_t max_queued, max_queued_ms;     /* of each shard */
    gw__shard *ready_first, *ready_last;    /* those that have something to do, served in turn */
    void *watches;                          /* lent to a poller that keeps its own list */
    size_t watches_bytes;
    gw__discover discover;
    uint32_t url_is_given;
    uint64_t discover_at_ms;                /* GW__NEVER: nobody wants to know */
    uint32_t discover_has_more;             /* its next step waits for nothing */

    gw_event event;                         /* in the caller's hand, with all that follows */
    gw__buf hand;                           /* its d */
    gw__json_index index;
    gw__notice notice;
    char name[GW__NAME_MAX];
    gw__shard *hand_shard;

    uint64_t (*monotonic_us)(void *user);
    uint64_t (*boot_us)(void *user);
    uint32_t turn_bytes_max, turn_us_max, in_turn;
    uint64_t turn_began_us, looked_us, longest_turn_us;
    int sees_some;                          /* not all that stirs was seen at the last look */
    uint64_t slept_us;                      /* boot time minus monotonic time, at the last look */
    uint64_t last_sleep_s;
    uint32_t sleep_to_tell;                 /* some shards have not heard of it */
    uint32_t fd_asked, woken;
    uint32_t stopping;                      /* enum gw_how */
    uint32_t closed_said, closed;
    gw_ticket last_ticket;
    char *texts[GW__TEXT_COUNT];            /* copies of what the config pointed to */
    size_t texts_bytes[GW__TEXT_COUNT];
    char why[GW__FAULT_TEXT_MAX];
};

/* ---- time ---- */
static uint64_t gw__client_now_us(gw_client *gw)
{
    uint64_t now_us;
    if (!gw->monotonic_us) return gw__sys_monotonic_us();
    gw->shared.net.in_hook = 1;
    now_us = gw->monotonic_us(gw->shared.net.user);
    gw->shared.net.in_hook = 0;
    return now_us;
}

static uint64_t gw__client_boot_us(gw_client *gw, uint64_t now_us)
{
    uint64_t boot_us;
    if (!gw->boot_us) return gw->monotonic_us ? now_us : gw__sys_boot_us();
    gw->shared.net.in_hook = 1;
    boot_us = gw->boot_us(gw->shared.net.user);
    gw->shared.net.in_hook = 0;
    return boot_us;
}

/* ---- the ready list: each shard at most once, served in turn ---- */
static void gw__client_push_ready(gw_client *gw, gw__shard *shard)
{
    if (shard->in_ready) return;
    shard->in_ready = 1;
    shard->next_ready = NULL;
    if (gw->ready_first) gw->ready_last->next_ready = shard;
    else gw->ready_first = shard;
    gw->ready_last = shard;
}

/* To be served next: it holds buffers that all shards share, and will soon be done with them. */
static void gw__client_push_ready_first(gw_client *gw, gw__shard *shard)
{
    if (!gw->ready_first || shard->in_ready) {
        gw__client_push_ready(gw, shard);
        return;
    }
    shard->in_ready = 1;
    shard->next_ready = gw->ready_first;
    gw->ready_first = shard;
}

static gw__shard *gw__client_pop_ready(gw_client *gw)
{
    gw__shard *shard = gw->ready_first;
    if (!shard) return NULL;
    gw->ready_first = shard->next_ready;
    shard->in_ready = 0;
    return shard;
}

/* ---- the heap of times: a thousand idle shards cost one look at its top ----
 * The times stand in it, beside each other: to keep it in order touches no shard. */

/* Of equal times the lower id comes first: that is the order in which shards identify. */
static int gw__heap_less(const gw_client *gw, uint32_t a, uint32_t b)
{
    const gw__due *one = &gw->heap[a], *two = &gw->heap[b];
    return one->next_ms != two->next_ms ? one->next_ms < two->next_ms : one->id < two->id;
}

static void gw__heap_swap(gw_client *gw, uint32_t a, uint32_t b)
{
    gw__due due = gw->heap[a];
    gw->heap[a] = gw->heap[b];
    gw->heap[b] = due;
    gw->heap_at[gw->heap[a].index] = a;
    gw->heap_at[gw->heap[b].index] = b;
}

/* The shard's time has changed. */
static void gw__heap_settle(gw_client *gw, const gw__shard *shard)
{
    uint32_t at = gw->heap_at[shard->index], child;
    gw->heap[at].next_ms = shard->next_ms;
    while (at && gw__heap_less(gw, at, (at - 1) / 2)) {
        gw__heap_swap(gw, at, (at - 1) / 2);
        at = (at - 1) / 2;
    }
    for (; (child = 2 * at + 1) < gw->shard_count; at = child) {
        if (child + 1 < gw->shard_count && gw__heap_less(gw, child + 1, child)) child++;
        if (!gw__heap_less(gw, child, at)) return;
        gw__heap_swap(gw, at, child);
    }
}

static void gw__heap_add(gw_client *gw, const gw__shard *shard)
{
    gw__due *due = &gw->heap[gw->shard_count];
    due->index = gw->heap_at[shard->index] = gw->shard_count++;
    due->id = shard->id;
    gw__heap_settle(gw, shard);
}

/* ---- the list of shards: grows where shards are started by hand, and never shrinks ---- */

/* Places in the lists, and watches for a poller that keeps its own. */
static int gw__client_reserve(gw_client *gw, uint32_t count)
{
    gw__mem *mem = &gw->shared.mem;
    size_t watches_bytes = (count + 2u) * GW__WATCH_BYTES;      /* ... discover, and the wake */
    gw__shard **shards;
    gw__due *heap;
    uint32_t *heap_at;
    void *watches;
    if (count <= gw->shard_cap) return 1;
    heap = (gw__due *)gw__mem_new(mem, count * GW__LISTED_BYTES);
    watches = watches_bytes ? gw__mem_new(mem, watches_bytes) : NULL;
    if (!heap || (watches_bytes && !watches)) {
        gw__mem_free(mem, heap, count * GW__LISTED_BYTES);
        gw__mem_free(mem, watches, watches_bytes);
        return 0;
    }
    shards = (gw__shard **)(void *)(heap + count);
    heap_at = (uint32_t *)(void *)(shards + count);
    if (gw->shard_count) {
        memcpy(shards, gw->shards, gw->shard_count * sizeof *shards);
        memcpy(heap, gw->heap, gw->shard_count * sizeof *heap);
        memcpy(heap_at, gw->heap_at, gw->shard_count * sizeof *heap_at);
    }
    gw__sys_poller_lend(&gw->shared.poller, watches, count + 2u);
    gw__mem_free(mem, gw->watches, gw->watches_bytes);
    gw__mem_free(mem, gw->heap, gw->shard_cap * GW__LISTED_BYTES);
    gw->shards = shards;
    gw->heap = heap;
    gw->heap_at = heap_at;
    gw->shard_cap = count;
    gw->watches = watches;
    gw->watches_bytes = watches_bytes;
    return 1;
}

/* A shard that does not run yet; NULL: no memory. */
static gw__shard *gw__client_add_shard(gw_client *gw, int32_t id)
{
    gw__shard *shard;
    uint32_t more = gw->shared.mem.block ? 1 : gw->shard_cap / 2 + 4;
    if (gw->shard_count == gw->shard_cap && !gw__client_reserve(gw, gw->shard_cap + more))
        return NULL;
    shard = (gw__shard *)gw__mem_new(&gw->shared.mem, sizeof *shard);
    if (!shard) return NULL;
    gw__shard_init(shard, &gw->shared, id, gw->shard_count, gw->max_queued, gw->max_queued_ms);
    gw->shards[gw->shard_count] = shard;
    gw__heap_add(gw, shard);
    gw->shared.mem.keeps_spares = gw->shard_count > 1 && !gw->shared.mem.block;
    return shard;
}

static int gw__client_add_shards(gw_client *gw, int32_t first, uint32_t count)
{
    uint32_t i;
    if (!gw__client_reserve(gw, gw->shard_count + count)) return 0;
    for (i = 0; i < count; i++) if (!gw__client_add_shard(gw, first + (int32_t)i)) return 0;
    return 1;
}

/* They stand in the order of their ids, unless they were started by hand. */
static gw__shard *gw__client_shard(gw_client *gw, int32_t id)
{
    int64_t at = gw->shard_count ? (int64_t)id - gw->shards[0]->id : 0;
    uint32_t i;
    if (at >= 0 && at < (int64_t)gw->shard_count && gw->shards[at]->id == id) return gw->shards[at];
    for (i = 0; i < gw->shard_count; i++) if (gw->shards[i]->id == id) return gw->shards[i];
    return NULL;
}

/* ---- what a change of a shard means for the rest ---- */

/* After anything that may have changed a shard: its time, and what the poller should look for. */
static void gw__client_settle(gw_client *gw, gw__shard *shard, uint64_t now_ms)
{
    uint64_t next_ms = gw__shard_next_ms(shard, now_ms);
    gw__link_watch(&shard->link);
    if (next_ms == shard->next_ms) return;
    shard->next_ms = next_ms;
    gw__heap_settle(gw, shard);
}

static void gw__client_start(gw_client *gw, gw__shard *shard, uint64_t now_ms)
{
    shard->wait_ms = 0;
    shard->wait_is_asked = 0;
    gw__shard_enter(shard, GW__WAITING, now_ms, "started");
    gw__client_settle(gw, shard, now_ms);
}

static void gw__client_start_all(gw_client *gw, uint64_t now_ms)
{
    uint32_t i;
    for (i = 0; i < gw->shard_count; i++) gw__client_start(gw, gw->shards[i], now_ms);
}

static void gw__client_kick(gw_client *gw, gw__shard *shard, uint64_t now_ms)
{
    shard->deadline_ms = now_ms;
    gw__client_settle(gw, shard, now_ms);
}

/* ---- discover: who knows the Gateway's URL ---- */
static void gw__client_kick_gated(gw_client *gw, uint64_t now_ms)
{
    uint32_t i;
    for (i = 0; i < gw->shard_count; i++)
        if (gw->shards[i]->state == GW__GATED) gw__client_kick(gw, gw->shards[i], now_ms);
}

/* The number of shards is for life: a later answer that advises more is the caller's to act on. */
static void gw__client_start_as_advised(gw_client *gw, uint64_t now_ms)
{
    uint32_t count = GW__MIN(gw->discover.info.shards, GW__SHARDS_MAX);
    gw_event *event;
    gw->shared.identity.shard_total = (int32_t)count;
    if (gw__client_add_shards(gw, 0, count)) {
        gw__client_start_all(gw, now_ms);
        return;
    }
    gw->shared.fatal = 1;
    event = gw__notice_push(&gw->shared, GW_FATAL, GW_ALL,
                            "no memory for as many shards as /gateway/bot advises", NULL);
    if (event) event->reason = GW_REASON_MEMORY;
}

static void gw__client_on_info(gw_client *gw, uint64_t now_ms)
{
    gw__gateway_info *info = &gw->discover.info;
    gw__buf *body = &gw->discover.http.body;
    char text[sizeof info->url + 96];
    gw__fault fault;
    memset(&fault, 0, sizeof fault);
    /* discover has looked at it */
    gw__url_parse(&gw->shared.gateway_url, info->url, strlen(info->url), &fault);
    gw->shared.has_gateway_url = gw->shared.knows_limits = 1;
    gw->shared.gateway_url_failures = gw->shared.info_wanted = 0;
    gw__gate_resize(&gw->shared.gate, info->max_concurrency);
    gw__gate_limit(&gw->shared.gate, info->total, info->remaining, info->reset_after_ms, now_ms);
    gw__text_format(text, sizeof text,
                    "/gateway/bot says %s; shards advised: %u, identifies at a time: %u, left: %u",
                    info->url, (unsigned)info->shards, (unsigned)info->max_concurrency,
                    (unsigned)info->remaining);
    if (gw__buf_append(body, "", 1))
        gw__notice_push(&gw->shared, GW_GATEWAY_INFO, GW_ALL, text,
                        (const char *)gw__buf_data(body));
    gw__discover_end(&gw->discover);
    gw->discover.tries = 0;
    gw->discover_at_ms = GW__NEVER;
    if (gw->shards_as_advised && gw->shard_count == 0) gw__client_start_as_advised(gw, now_ms);
    gw__client_kick_gated(gw, now_ms);
}

static void gw__client_on_info_failed(gw_client *gw, uint64_t now_ms)
{
    gw__discover *discover = &gw->discover;
    uint32_t cap_ms = gw__backoff_ms(++discover->tries);
    uint64_t wait_ms = (uint64_t)cap_ms * gw__shared_random(&gw->shared) / UINT32_MAX;
    gw_event *event;
    wait_ms = GW__MAX(wait_ms, gw__http_wait_ms(&discover->http));
    event = gw__notice_push(&gw->shared, discover->is_final ? GW_FATAL : GW_DISCONNECTED, GW_ALL,
                            discover->fault.text, NULL);
    if (event) {
        event->reason = discover->fault.reason;
        event->close_code = discover->fault.code;
        event->will = discover->is_final ? GW_NEXT_NOTHING : GW_NEXT_IDENTIFY;
        event->in_ms = discover->is_final ? 0 : (uint32_t)wait_ms;
    }
    gw->shared.fatal |= discover->is_final;
    gw->discover_at_ms = discover->is_final ? GW__NEVER : now_ms + wait_ms;
    gw__discover_end(discover);
}

static void gw__client_discover(gw_client *gw, uint64_t now_ms)
{
    gw__trust_clock clock;
    gw__discover *discover = &gw->discover;
    gw__discover_found found = GW__DISCOVER_WAITING;
    if (!discover->is_active) {
        if (now_ms < gw->discover_at_ms) return;
        gw->shared.gate.since_asked = 0;
        if (!gw__discover_begin(discover, GW_API_URL, gw->shared.identity.token,
                                (uint64_t)++gw->shared.connections << 32 | GW__TAG_DISCOVER,
                                now_ms))
            found = GW__DISCOVER_FAILED;
    }
    clock = gw__shared_clock(&gw->shared);
    if (found != GW__DISCOVER_FAILED)
        found = gw__discover_step(discover, &gw->shared.trust, &clock, now_ms);
    /* a flood of something else holds the end up no longer than twice the time */
    if (found == GW__DISCOVER_WAITING) found = gw__discover_expire(discover, now_ms);
    else if (found == GW__DISCOVER_MORE && now_ms > GW__DISCOVER_TIMEOUT_MS &&
             gw__discover_expire(discover, now_ms - GW__DISCOVER_TIMEOUT_MS) == GW__DISCOVER_FAILED)
        found = GW__DISCOVER_FAILED;
    gw->discover_has_more = found == GW__DISCOVER_MORE;
    if (found == GW__DISCOVER_DONE) gw__client_on_info(gw, now_ms);
    else if (found == GW__DISCOVER_FAILED) gw__client_on_info_failed(gw, now_ms);
    else gw__link_watch(&discover->link);
}

/* ---- looking: what the poller saw becomes flags of links ---- */
static void gw__client_on_woken(gw_client *gw, uint64_t now_ms)
{
    uint32_t i, by = gw__sys_poller_unwake(&gw->shared.poller);
    if (by & GW__WOKEN_BY_CALLER) {
        gw->woken = 1;
        gw__client_kick_gated(gw, now_ms);  /* a gate or a resolver may have its answer now */
    }
    for (i = 0; i < gw->shard_count; i++) {
        gw__link *link = &gw->shards[i]->link;
        if (link->state == GW__LINK_RESOLVING || link->tcp.stream) {
            link->readable = link->tcp.stream != NULL;
            link->dns.ask_again_ms = 0;
            gw__client_push_ready(gw, gw->shards[i]);
        }
    }
    gw->discover.link.dns.ask_again_ms = 0;
    if (gw->discover.link.tcp.stream) gw->discover.link.readable = 1;
}

static void gw__client_on_ready(gw_client *gw, const gw__ready *seen, uint64_t now_ms)
{
    uint32_t index = (uint32_t)(seen->tag & UINT32_MAX);
    gw__link *link;
    if (seen->tag == GW__TAG_WAKE) {
        gw__client_on_woken(gw, now_ms);
        return;
    }
    if (index != GW__TAG_DISCOVER && index >= gw->shard_count) return;      /* the timer */
    link = index == GW__TAG_DISCOVER ? &gw->discover.link : &gw->shards[index]->link;
    if (link->tcp.tag != seen->tag) return;  /* of a connection that is gone */
    if (seen->readable) link->readable = 1;
    if (seen->writable) gw__link_flush(link);
    if (index != GW__TAG_DISCOVER) gw__client_push_ready(gw, gw->shards[index]);
}

/* Streams of config.transport without a descriptor are simply tried. */
static void gw__client_try_streams(gw_client *gw)
{
    uint32_t i;
    if (!gw->shared.net.transport) return;
    if (gw->discover.link.tcp.stream && gw->discover.link.tcp.fd == GW__NO_FD)
        gw->discover.link.readable = 1;
    for (i = 0; i < gw->shard_count; i++) {
        gw__link *link = &gw->shards[i]->link;
        if (!link->tcp.stream || link->tcp.fd != GW__NO_FD) continue;
        link->readable = 1;
        gw__link_flush(link);
        gw__client_push_ready(gw, gw->shards[i]);
    }
}

/* 1: as many were seen as there was room for, so that there may be more. */
static int gw__client_look_at_some(gw_client *gw, int32_t timeout_ms)
{
    gw__ready seen[32];
    uint32_t i, count = gw__sys_poller_wait(&gw->shared.poller, timeout_ms, seen, GW__COUNT(seen));
    gw->looked_us = gw__client_now_us(gw);
    for (i = 0; i < count; i++) gw__client_on_ready(gw, &seen[i], gw->looked_us / 1000u);
    return count == GW__COUNT(seen);
}

static void gw__client_look(gw_client *gw, int32_t timeout_ms)
{
    gw->sees_some = gw__client_look_at_some(gw, timeout_ms);
    gw__client_try_streams(gw);
}

/* At all that stir, before silence is judged. */
static void gw__client_look_at_rest(gw_client *gw)
{
    uint32_t rounds;
    for (rounds = 0; gw->sees_some && rounds <= gw->shard_count; rounds += 32)
        gw->sees_some = gw__client_look_at_some(gw, 0);
    gw->sees_some = 0;
}

/* ---- time passes ---- */

/* Each shard hears of a sleep once; those for whom there is no room now, at the next look. */
static void gw__client_tell_sleep(gw_client *gw, uint64_t now_ms)
{
    char text[96];
    uint32_t i;
    gw__text_format(text, sizeof text, "the machine slept for %llu s",
                    (unsigned long long)gw->last_sleep_s);
    for (i = 0; i < gw->shard_count; i++) {
        gw__shard *shard = gw->shards[i];
        if (shard->sleeps == gw->shared.sleeps) continue;
        if (!gw__notices_have_room(&gw->shared.notices)) return;
        shard->sleeps = gw->shared.sleeps;
        if (gw__shard_is_open(shard)) gw__shard_fail(shard, GW_REASON_SLEPT, text, now_ms);
        if (shard->state == GW__WAITING) gw__client_kick(gw, shard, now_ms);
        gw__client_settle(gw, shard, now_ms);
    }
    gw->sleep_to_tell = 0;
}

/* The machine was suspended: every connection is old news, every wait is over. */
static void gw__client_on_sleep(gw_client *gw, uint64_t now_us)
{
    uint64_t slept_us = gw__client_boot_us(gw, now_us) - now_us, before_us = gw->slept_us;
    gw->slept_us = slept_us;
    if (slept_us >= before_us + GW__SLEPT_MS * UINT64_C(1000) && slept_us <= UINT64_MAX / 2) {
        gw->last_sleep_s = (slept_us - before_us) / 1000000u;
        gw->shared.sleeps++;
        gw->sleep_to_tell = 1;
    }
    if (gw->sleep_to_tell) gw__client_tell_sleep(gw, now_us / 1000u);
}

/* Heartbeats never wait, not for a caller who sits on a notice and calls gw_tend() either. */
static void gw__client_beat_quietly(gw_client *gw, uint64_t now_us)
{
    uint32_t i;
    for (i = 0; i < gw->shard_count; i++) {
        if (gw->shards[i]->session.next_beat_ms > now_us / 1000u) continue;
        gw__shard_beat_quietly(gw->shards[i], now_us);
        gw__client_settle(gw, gw->shards[i], now_us / 1000u);
    }
}

/* A beat that is nearly due leaves together with one that is: a thousand idle shards then wake us
 * twice a second, not for each. */
static int gw__client_beats_along(gw__shard *shard, uint64_t now_ms)
{
    gw__session *session = &shard->session;
    if (!gw__shard_is_open(shard) || shard->next_ms != session->next_beat_ms ||
        session->next_beat_ms - now_ms > session->interval_ms / GW__BEATS_ALONG) return 0;
    session->next_beat_ms = now_ms;
    return 1;
}

static void gw__client_on_time(gw_client *gw, uint64_t now_us)
{
    uint64_t now_ms = now_us / 1000u, beats = gw->shared.beats;
    uint32_t served = 0;
    if (gw->shard_count && gw->heap[0].next_ms <= now_ms) gw__client_look_at_rest(gw);
    while (gw->shard_count && served++ < gw->shard_count &&
           gw__notices_have_room(&gw->shared.notices)) {
        gw__shard *shard = gw->shards[gw->heap[0].index];
        if (shard->next_ms > now_ms &&
            (gw->shared.beats == beats || !gw__client_beats_along(shard, now_ms))) break;
        gw__shard_on_time(shard, now_us);
        gw__client_push_ready(gw, shard);
        gw__link_watch(&shard->link);
        shard->next_ms = GW__MAX(gw__shard_next_ms(shard, now_ms), now_ms + 1);  /* once a look */
        gw__heap_settle(gw, shard);
    }
    if (!gw__notices_have_room(&gw->shared.notices)) gw__client_beat_quietly(gw, now_us);
    if (gw->shared.gateway_url_failures >= GW__REDISCOVER_AFTER && !gw->url_is_given)
        gw->shared.info_wanted = 1;
    if (gw->shared.info_wanted && gw->discover_at_ms == GW__NEVER && !gw->stopping)
        gw->discover_at_ms = now_ms;
    if (gw__notices_have_room(&gw->shared.notices) && !gw->stopping && !gw->shared.fatal)
        gw__client_discover(gw, now_ms);
}

/* ---- the end ---- */
static int gw__client_all_stopped(const gw_client *gw)
{
    uint32_t i;
    for (i = 0; i < gw->shard_count; i++)
        if (!gw__shard_is_done(gw->shards[i])) return 0;
    return 1;
}

static void gw__client_stop_all(gw_client *gw, uint32_t how, uint64_t now_ms)
{
    uint32_t i;
    gw->stopping = how;
    gw__discover_end(&gw->discover);
    gw->discover_at_ms = GW__NEVER;
    for (i = 0; i < gw->shard_count; i++) {
        gw__shard_stop(gw->shards[i], how, now_ms);
        gw__client_push_ready(gw, gw->shards[i]);
        gw__client_settle(gw, gw->shards[i], now_ms);
    }
}

static void gw__client_look_at_end(gw_client *gw, uint64_t now_ms)
{
    if (gw->shared.fatal && !gw->stopping) gw__client_stop_all(gw, GW_KEEP, now_ms);
    if (!gw->stopping || gw->closed_said || !gw__client_all_stopped(gw) ||
        !gw__notices_have_room(&gw->shared.notices))
        return;
    gw->closed_said = 1;
    gw__notice_push(&gw->shared, GW_CLOSED, GW_ALL,
                    gw->shared.fatal ? "closed after a fatal error" : "closed by the caller", NULL);
}

/* ---- events out ---- */

/* The event's buffer serves the shard's next one, so that a row of large payloads needs one between
 * them; gw__shard_idles() lets it go. */
static void gw__client_take_back_buffer(gw_client *gw, gw__shard *shard)
{
    gw__buf hand = gw->hand;
    gw__buf_clear(&gw->hand);
    if (shard && shard->link.state == GW__LINK_OPEN && !shard->in_message && !shard->has_event &&
        hand.cap > shard->payload.cap) {
        gw->hand = shard->payload;
        shard->payload = hand;
        gw__buf_clear(&shard->payload);
    }
    gw__buf_shrink(&gw->hand, GW__KEEP_BYTES);
}

/* The event in hand counts as taken from here on. */
static void gw__client_let_go(gw_client *gw)
{
    gw__shard *shard = gw->hand_shard;
    gw__mem_free(&gw->shared.mem, gw->notice.text, gw->notice.text_bytes);
    gw->notice.text = NULL;
    gw->hand_shard = NULL;
    gw__client_take_back_buffer(gw, shard);
    if (gw->shared.mem.block) gw__json_index_free(&gw->index);
    if (!shard) return;
    shard->in_hand = 0;
    if (gw->event.type == GW_SKIPPED) shard->skips_to_tell--;
    /* a seq that has not come is of the run before gw_shard_stop(); the new one began behind it */
    if (gw->shared.ack_by_hand || gw->event.session != shard->session.number ||
        gw->event.seq > shard->session.received_seq) return;
    if (shard->session.has_taken && gw->event.seq <= shard->session.taken_seq) return;
    shard->session.taken_seq = gw->event.seq;
    shard->session.has_taken = 1;
}

static const gw_event *gw__client_hand_out_notice(gw_client *gw)
{
    gw__notices *notices = &gw->shared.notices;
    if (gw->woken && notices->count < GW__NOTICES_MAX) {
        gw->woken = 0;
        gw__notice_push(&gw->shared, GW_WOKEN, GW_ALL, "gw_wake() was called", NULL);
    }
    if (notices->count == 0) return NULL;
    gw->notice = notices->ring[notices->first];
    notices->first = (notices->first + 1) % GW__NOTICES_MAX;
    notices->count--;
    gw->event = gw->notice.event;
    if (gw->event.type == GW_CLOSED) gw->closed = 1;
    /* it stands for an event, and is taken like one */
    if (gw->event.type == GW_SKIPPED) gw->hand_shard = gw__client_shard(gw, gw->event.shard);
    return &gw->event;
}

/* The payload's buffer changes hands with the one before, so that the shard can go on while the
 * caller reads. In a fixed block there is one buffer a shard, and gw_tend() leaves it alone. */
static const gw_event *gw__client_hand_out(gw_client *gw, gw__shard *shard)
{
    gw__buf hand = gw->hand;
    if (!gw->shared.mem.block) {
        gw->hand = shard->payload;
        shard->payload = hand;
    }
    gw->event = shard->event;
    shard->has_event = shard->held_passes = 0;
    shard->in_hand = 1;
    gw->hand_shard = shard;
    if (gw->event.type == GW_UNKNOWN_DISPATCH) {
        memcpy(gw->name, shard->scan.name, sizeof gw->name);
        gw->event.name = gw->name;
    }
    gw__json_index_point(&gw->index, gw->event.d.ptr, gw->event.d.len);
    gw->event.d.index = &gw->index;
    return &gw->event;
}

/* All was read that the last look has seen: what was due by then is judged now, unless it has not
 * seen all. */
static void gw__client_judge(gw_client *gw, gw__shard *shard, uint64_t now_us)
{
    gw__state before = shard->state;
    uint64_t looked_ms = gw->looked_us / 1000u;
    if (gw->sees_some || gw__shard_next_ms(shard, looked_ms) > looked_ms) return;
    if (!gw__notices_have_room(&gw->shared.notices)) return;
    gw__shard_on_time(shard, now_us);
    if (shard->state != before) gw__client_push_ready(gw, shard);
}

/* One step of the shard whose turn it is. 1: it has an event; *out is the shard. One that is quiet
 * and has its next turn waits for that with all else. */
static int gw__client_step(gw_client *gw, uint64_t now_us, gw__shard **out)
{
    gw__shard *shard = gw__client_pop_ready(gw);
    gw__step step = GW__STEP_EVENT;
    *out = shard;
    if (!shard) return 0;
    if (!shard->has_event) step = gw__shard_step(shard, now_us);
    if (step == GW__STEP_MORE || (step == GW__STEP_EVENT && gw__shard_may_hand_out(shard))) {
        if (gw__link_is_finishing(&shard->link)) gw__client_push_ready_first(gw, shard);
        else gw__client_push_ready(gw, shard);
    }
    if (step == GW__STEP_IDLE) gw__client_judge(gw, shard, now_us);
    if (!shard->in_ready || !gw__shard_is_quiet(shard)) {
        gw__shard_pump(shard, now_us / 1000u);
        gw__client_settle(gw, shard, now_us / 1000u);
    }
    return step == GW__STEP_EVENT && gw__shard_may_hand_out(shard);
}

static int gw__client_turn_is_over(const gw_client *gw, uint64_t now_us)
{
    return gw->shared.turn_bytes >= gw->turn_bytes_max ||
           now_us - gw->turn_began_us >= gw->turn_us_max;
}

/* A handler that took long has made the last look old: nobody is judged by what we saw before it. */
static uint64_t gw__client_begin_turn(gw_client *gw)
{
    uint64_t now_us = gw__client_now_us(gw);
    int is_new = !gw->in_turn;
    if (is_new || now_us - gw->looked_us >= gw->turn_us_max) {
        gw__client_look(gw, 0);
        now_us = gw__client_now_us(gw);
        gw__client_on_sleep(gw, now_us);
    }
    if (is_new) {
        gw->in_turn = 1;
        gw->turn_began_us = now_us;
        gw->shared.turn_bytes = 0;
    }
    gw__client_on_time(gw, now_us);
    return now_us;
}

static void gw__client_end_turn(gw_client *gw, uint64_t now_us)
{
    gw->in_turn = 0;
    gw->longest_turn_us = GW__MAX(gw->longest_turn_us, now_us - gw->turn_began_us);
}

/* Works until there is an event, nothing to do, or the turn's budget is spent. */
static const gw_event *gw__client_turn(gw_client *gw)
{
    uint64_t now_us = gw__client_begin_turn(gw);
    const gw_event *event;
    gw__shard *shard;
    for (;;) {
        gw__client_look_at_end(gw, now_us / 1000u);
        if ((event = gw__client_hand_out_notice(gw)) != NULL) return event;
        if (gw->in_turn > 1 && gw__client_turn_is_over(gw, now_us)) break;
        gw->in_turn = 2;                /* one step at least, however little turn_us is */
        if (gw__client_step(gw, now_us, &shard)) return gw__client_hand_out(gw, shard);
        if (!shard) break;
        now_us = gw__client_now_us(gw);
    }
    gw__client_end_turn(gw, now_us);
    return NULL;
}

static int gw__client_has_work(gw_client *gw)
{
    if (gw->shared.notices.count || gw->ready_first || gw->woken) return 1;
    if (gw->discover.is_active && gw->discover_has_more) return 1;
    return gw->discover.is_active && gw__link_has_work(&gw->discover.link);
}

static uint64_t gw__client_next_ms(gw_client *gw)
{
    uint64_t next_ms = gw->shard_count ? gw->heap[0].next_ms : GW__NEVER;
    next_ms = GW__MIN(next_ms, gw__discover_next_ms(&gw->discover));
    if (!gw->discover.is_active) next_ms = GW__MIN(next_ms, gw->discover_at_ms);
    return next_ms;
}

/* The timer behind the poller: it wakes whoever watches gw_fd(), and gw_wait() after a suspend. */
static void gw__client_set_timer(gw_client *gw)
{
    uint64_t next_ms = gw__client_has_work(gw) ? 0 : gw__client_next_ms(gw);
    if (gw->closed) next_ms = GW__NEVER;
    gw__sys_poller_arm(&gw->shared.poller,
                       next_ms > UINT64_MAX / 1000u ? GW__NEVER : next_ms * 1000u,
                       gw__client_now_us(gw));
}

/* Nothing to do until somebody has asked for gw_fd(). */
static void gw__client_arm(gw_client *gw)
{
    if (gw->fd_asked) gw__client_set_timer(gw);
}

/* ---- who may come in ---- */
static int gw__client_in_hook(const gw_client *gw)
{
    return gw->shared.mem.in_hook || gw->shared.logger.in_hook || gw->shared.net.in_hook;
}

/* The call's own failure: kept for gw_why(), and answered. */
static int32_t gw__client_refuse(gw_client *gw, int32_t result, const char *why)
{
    gw__text_format(gw->why, sizeof gw->why, "%s%s%s", gw__result_text(result), why[0] ? ": " : "",
                    why);
    gw__text_redact(gw->why, gw->shared.identity.token);
    return result;
}

/* GW_OK, or why this call cannot be served. */
static int32_t gw__client_may_enter(gw_client *gw)
{
    if (!gw) return GW_ERROR_ENDED;
    if (gw__client_in_hook(gw)) return GW_ERROR_IN_HOOK;
    if (gw->closed) return gw__client_refuse(gw, GW_ERROR_ENDED, "CLOSED was taken");
    return GW_OK;
}

/* ... nor one that begins something, once gw_stop() was called. */
static int32_t gw__client_may_change(gw_client *gw)
{
    int32_t result = gw__client_may_enter(gw);
    if (result == GW_OK && gw->stopping)
        return gw__client_refuse(gw, GW_ERROR_ENDED, "gw_stop was called, or a fatal error came");
    return result;
}

/* ==========================================================================
 * >> room: session text -- sessions as a small text that survives the process.
 *    Knows:  its lines, its seal, what makes a text one of this bot.
 *    Not:    files; when to save.
 *      gw1 <user id> <application id> <last identify> <hour> <identifies> <gateway url>
 *      <shard> <total> <session number> <seq> <session id> <resume url>        a line a shard
 *      end <seal of all before>
 *    The last identify is in unix seconds, the hour in hours; of that and the 24 before it two digits
 *    of base 64 each say how many Identifies they had; "-" stands for what is not known. The seal is a
 *    MAC under the token: a text that is cut, of another bot, or written by somebody else is refused,
 *    and so nobody who can write the file can send the token to a host of his own.
 * ========================================================================== */

#define GW__WORD_MAX 240u
/* a longer one is left out, so that a shard's text fits GW_SESSION_MAX */
#define GW__SAVED_URL_MAX 100u
#define GW__SEAL_CHARS 16u
#define GW__END_LEN (4u + GW__SEAL_CHARS + 1u)      /* "end ", the seal, a newline */

static void gw__seal_begin(br_hmac_context *seal, const char *token)
{
    br_hmac_key_context key;
    br_hmac_key_init(&key, &br_sha256_vtable, token, strlen(token));
    br_hmac_init(seal, &key, 0);
    gw__mem_wipe(&key, sizeof key);
}

/* The text's last line. */
static void gw__seal_end(br_hmac_context *seal, char line[GW__END_LEN + 1])
{
    static const char digits[] = "0123456789abcdef";
    uint8_t mac[br_sha256_SIZE];
    size_t i;
    br_hmac_out(seal, mac);
    memcpy(line, "end ", 4);
    for (i = 0; i < GW__SEAL_CHARS; i++)
        line[4 + i] = digits[i % 2 ? mac[i / 2] & 15 : mac[i / 2] >> 4];
    memcpy(line + 4 + GW__SEAL_CHARS, "\n", 2);
}

/* A word that may stand in a line: no blanks, no control bytes, not empty, nor the token, which a
 * server may have put into an id or URL of its own. */
static const char *gw__text_word_or_dash(const char *word, size_t max, const char *secret)
{
    size_t i, len = strlen(word);
    if (len == 0 || len > max || gw__text_shows(word, secret)) return "-";
    for (i = 0; i < len; i++) if ((uint8_t)word[i] <= ' ' || (uint8_t)word[i] > '~') return "-";
    return word;
}

typedef struct gw__lines {  /* writes a text whose end may lie behind the caller's buffer */
    char *out;
    size_t cap, len;
    const char *secret;     /* the token: is in none of them */
    br_hmac_context seal;
} gw__lines;

static void gw__lines_add(gw__lines *lines, const char *text, size_t len)
{
    size_t i;
    br_hmac_update(&lines->seal, text, len);
    for (i = 0; i < len; i++) {
        if (lines->len + 1 < lines->cap) lines->out[lines->len] = text[i];
        lines->len++;
    }
}

static void gw__lines_add_url(gw__lines *lines, const gw__url *url, char end)
{
    char text[GW__HOST_MAX + GW__PATH_MAX + 32] = "";
    const char *word;
    if (url->host[0]) gw__url_write(url, text, sizeof text);
    word = gw__text_word_or_dash(text, GW__SAVED_URL_MAX, lines->secret);
    gw__lines_add(lines, word, strlen(word));
    gw__lines_add(lines, &end, 1);
}

static const char gw__digits64[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_-";

/* ---- the Identifies of the last day: two digits an hour ---- */
typedef struct gw__hours { char text[2 * GW__GATE_HOURS + 1]; } gw__hours;

static void gw__hours_write(gw__hours *hours, const gw__gate *gate)
{
    uint32_t i, count;
    for (i = 0; i < GW__GATE_HOURS; i++) {
        count = GW__MIN(gate->spent[i], 4095u);
        hours->text[2 * i] = gw__digits64[count >> 6];
        hours->text[2 * i + 1] = gw__digits64[count & 63u];
    }
    hours->text[2 * GW__GATE_HOURS] = 0;
}

static int gw__hours_read(const char *text, uint32_t spent[GW__GATE_HOURS])
{
    uint32_t i;
    if (strlen(text) != 2 * GW__GATE_HOURS) return 0;
    for (i = 0; i < 2 * GW__GATE_HOURS; i++) {
        const char *digit = strchr(gw__digits64, text[i]);
        if (!digit) return 0;
        spent[i / 2] = (i % 2 ? spent[i / 2] << 6 : 0) + (uint32_t)(digit - gw__digits64);
    }
    return 1;
}

static void gw__client_save_head(gw_client *gw, gw__lines *lines)
{
    gw__shared *shared = &gw->shared;
    gw__hours hours;
    char line[160];
    size_t len;
    gw__gate_tell_time(&shared->gate, gw__shared_known_time(shared),
                       gw__client_now_us(gw) / 1000u);
    gw__hours_write(&hours, &shared->gate);
    len = gw__text_format(line, sizeof line, "gw1 %llu %llu %llu %llu %s ",
                          (unsigned long long)shared->user_id,
                          (unsigned long long)shared->application_id,
                          (unsigned long long)shared->gate.last_unix,
                          (unsigned long long)shared->gate.hour, hours.text);
    gw__lines_add(lines, line, len);
    gw__lines_add_url(lines, &shared->gateway_url, '\n');
}

static void gw__client_save_shard(gw_client *gw, const gw__shard *shard, gw__lines *lines)
{
    const gw__session *session = &shard->session;
    const char *id = gw__text_word_or_dash(session->id, GW__SESSION_ID_MAX, lines->secret);
    char line[GW__WORD_MAX];
    size_t len;
    if (strcmp(id, "-") == 0 || !session->has_taken) return;
    len = gw__text_format(line, sizeof line, "%d %d %u %llu %s ", (int)shard->id,
                          (int)gw->shared.identity.shard_total, (unsigned)session->number,
                          (unsigned long long)session->taken_seq, id);
    gw__lines_add(lines, line, len);
    gw__lines_add_url(lines, &session->resume_url, '\n');
}

GW_API size_t gw_session_save(gw_client *gw, int32_t shard, char *out, size_t cap)
{
    gw__lines lines;
    char end[GW__END_LEN + 1];
    uint32_t i;
    if (cap) out[0] = 0;
    if (!gw || gw__client_in_hook(gw) || !gw->shared.identity.token) return 0;
    lines.out = out;
    lines.cap = cap;
    lines.len = 0;
    lines.secret = gw->shared.identity.token;
    gw__seal_begin(&lines.seal, lines.secret);
    gw__client_save_head(gw, &lines);
    for (i = 0; i < gw->shard_count; i++)
        if (shard == GW_ALL || gw->shards[i]->id == shard)
            gw__client_save_shard(gw, gw->shards[i], &lines);
    gw__seal_end(&lines.seal, end);
    gw__lines_add(&lines, end, GW__END_LEN);
    if (cap) out[GW__MIN(lines.len, cap - 1)] = 0;
    return lines.len;
}

typedef struct gw__words { const char *at, *end; } gw__words;

/* The next word of the line, 0-terminated in `word`; 0: the line has no more, or it is too long. */
static int gw__words_next(gw__words *words, char word[GW__WORD_MAX])
{
    size_t len = 0;
    while (words->at < words->end && *words->at == ' ') words->at++;
    while (words->at < words->end && *words->at != ' ' && *words->at != '\n') {
        if (len + 1 == GW__WORD_MAX) return 0;
        word[len++] = *words->at++;
    }
    word[len] = 0;
    return len > 0;
}

static int gw__words_number(gw__words *words, uint64_t *out)
{
    char word[GW__WORD_MAX];
    return gw__words_next(words, word) && gw__text_to_u64(word, strlen(word), out);
}

static int gw__words_url(gw__words *words, gw__url *url)
{
    char word[GW__WORD_MAX];
    gw__fault fault;
    memset(&fault, 0, sizeof fault);
    memset(url, 0, sizeof *url);
    if (!gw__words_next(words, word)) return 0;
    return strcmp(word, "-") == 0 || (gw__url_parse(url, word, strlen(word), &fault) &&
                                      gw__url_allowed(url, &fault) && !url->http);
}

static int gw__words_end_line(gw__words *words)
{
    return words->at < words->end && *words->at++ == '\n';
}

/* What was spent of the day's Identifies goes on counting, and the last one may be a moment ago. */
static void gw__client_load_budget(gw_client *gw, uint64_t last, uint64_t hour,
                                   const uint32_t spent[GW__GATE_HOURS], uint64_t now_ms)
{
    gw__gate *gate = &gw->shared.gate;
    uint64_t unix_time = gw__shared_known_time(&gw->shared);
    gw__gate_tell_time(gate, unix_time, now_ms);
    gw__gate_add_spent(gate, hour, spent);
    gate->last_unix = GW__MAX(gate->last_unix, last);
    if (last == GW__TIME_UNKNOWN || (last && !unix_time) || (last <= unix_time && unix_time - last < 6))
        gw__gate_delay(gate, now_ms + GW__IDENTIFY_EVERY_MS);
}

static int gw__client_load_head(gw_client *gw, gw__words *words, uint64_t now_ms)
{
    char word[GW__WORD_MAX];
    uint64_t user, application, last, hour;
    uint32_t spent[GW__GATE_HOURS];
    gw__url url;
    if (!gw__words_next(words, word) || strcmp(word, "gw1") != 0) return 0;
    if (!gw__words_number(words, &user) || !gw__words_number(words, &application) ||
        !gw__words_number(words, &last) || !gw__words_number(words, &hour) ||
        !gw__words_next(words, word) || !gw__hours_read(word, spent) ||
        !gw__words_url(words, &url) || !gw__words_end_line(words))
        return 0;
    if (!gw->shared.user_id) gw->shared.user_id = user;
    if (!gw->shared.application_id) gw->shared.application_id = application;
    if (!gw->shared.has_gateway_url && url.host[0]) {
        gw->shared.gateway_url = url;
        gw->shared.has_gateway_url = 1;
        gw->discover_at_ms = GW__NEVER;         /* asked when it stops working */
    }
    gw__client_load_budget(gw, last, hour, spent, now_ms);
    return 1;
}

/* A config that now names another Gateway does not take the token to the old one's hosts. */
static void gw__client_take_resume_url(gw_client *gw, gw__session *session, const gw__url *url)
{
    gw__fault refused;
    memset(&refused, 0, sizeof refused);
    memset(&session->resume_url, 0, sizeof session->resume_url);        /* the cached one is used */
    if (!url->host[0]) return;
    if (!gw->shared.has_gateway_url || gw__url_may_replace(&gw->shared.gateway_url, url, &refused))
        session->resume_url = *url;
    else
        gw__log(&gw->shared.logger, GW_LOG_WARN, GW_ALL, "saved session: %s", refused.text);
}

/* GW_ALL, and the text knows how many that were: a Resume needs the same total. */
static int gw__client_load_total(gw_client *gw, uint64_t total)
{
    if (!gw->shards_as_advised || gw->shard_count) return 1;
    if (total == 0 || total > GW__SHARDS_MAX) return 0;
    gw->shared.identity.shard_total = (int32_t)total;
    return gw__client_add_shards(gw, 0, (uint32_t)total);
}

/* A line of a shard that is not meant, or that we do not run, is read over. */
static int gw__client_load_shard(gw_client *gw, gw__words *words, int32_t only)
{
    uint64_t id, total, number, seq;
    char session_id[GW__WORD_MAX];
    gw__url url;
    gw__shard *shard;
    if (!gw__words_number(words, &id) || !gw__words_number(words, &total) ||
        !gw__words_number(words, &number) || !gw__words_number(words, &seq) ||
        !gw__words_next(words, session_id) || !gw__words_url(words, &url) ||
        !gw__words_end_line(words)) return 0;
    if (strlen(session_id) >= GW__SESSION_ID_MAX || id > INT32_MAX || number > UINT32_MAX ||
        !gw__client_load_total(gw, total) || total != (uint64_t)gw->shared.identity.shard_total)
        return 0;
    shard = gw__client_shard(gw, (int32_t)id);
    if (!shard || (only != GW_ALL && only != (int32_t)id)) return 1;
    gw__text_format(shard->session.id, sizeof shard->session.id, "%s", session_id);
    gw__client_take_resume_url(gw, &shard->session, &url);
    shard->session.number = GW__MAX(shard->session.number, (uint32_t)number);
    shard->session.received_seq = shard->session.taken_seq = seq;
    shard->session.has_received = shard->session.has_taken = shard->session.begun = 1;
    return 1;
}

/* The sessions of all shards, or of only one. 0: the text is cut, or of another bot, version or
 * shard count. */
static int gw__client_load(gw_client *gw, const char *text, size_t len, int32_t only,
                           uint64_t now_ms)
{
    gw__words words;
    br_hmac_context seal;
    char end[GW__END_LEN + 1];
    uint32_t i;
    int good;
    if (len < GW__END_LEN) return 0;
    words.at = text;
    words.end = text + len - GW__END_LEN;
    gw__seal_begin(&seal, gw->shared.identity.token);
    br_hmac_update(&seal, text, len - GW__END_LEN);
    gw__seal_end(&seal, end);
    if (memcmp(words.end, end, GW__END_LEN) != 0) return 0;
    good = gw__client_load_head(gw, &words, now_ms);
    while (good && words.at < words.end) good = gw__client_load_shard(gw, &words, only);
    for (i = 0; i < gw->shard_count && !good; i++)
        if (only == GW_ALL || gw->shards[i]->id == only)
            gw__session_forget(&gw->shards[i]->session);
    return good;
}

/* ==========================================================================
 * >> room: calls -- the public functions: config in, events out.
 *    Knows:  what a caller may give, and may do wrong.
 *    Not:    how anything is done; each call is a few lines over the client.
 * ========================================================================== */

/* ---- payloads: into the scratch buffer, and looked at ---- */

/* The payload is whole: may it be queued? */
static int32_t gw__client_end_payload(gw_client *gw, gw__json_writer *writer)
{
    gw__buf *scratch = &gw->shared.scratch;
    int written = gw__payload_end(writer);
    if (!written && scratch->cap < GW__SEND_BYTES_MAX)
        return gw__client_refuse(gw, GW_ERROR_NO_MEMORY, "");
    if (!written || gw__buf_len(scratch) > GW__SEND_BYTES_MAX)
        return gw__client_refuse(gw, GW_ERROR_TOO_LARGE, "");
    return GW_OK;
}

/* Discord docs, "Activity Object": only Twitch and YouTube URLs work. Others are sent, and said. */
static void gw__client_look_at_urls(gw_client *gw, const gw_presence *presence)
{
    static const char *const known[] = { "https://twitch.tv/", "https://www.twitch.tv/",
                                         "https://youtube.com/", "https://www.youtube.com/" };
    uint32_t i, k;
    for (i = 0; i < presence->activity_count; i++) {
        const gw_activity *activity = &presence->activities[i];
        if (activity->type != GW__ACTIVITY_STREAMING) continue;
        for (k = 0; k < GW__COUNT(known); k++)
            if (activity->url && strncmp(activity->url, known[k], strlen(known[k])) == 0) break;
        if (k < GW__COUNT(known)) continue;
        gw__log(&gw->shared.logger, GW_LOG_WARN, GW_ALL,
                "presence: activity %u streams, but its url is neither of twitch.tv nor of youtube.com; "
                "Discord will show it as playing", (unsigned)i);
    }
}

/* As op 3 into the scratch buffer; *json and *len are its d. */
static int32_t gw__client_write_presence(gw_client *gw, const gw_presence *presence,
                                         const char **json, size_t *len)
{
    gw__json_writer writer;
    gw__buf *scratch = &gw->shared.scratch;
    const char *wrong = presence ? gw__presence_fault(presence) : "presence is NULL";
    size_t begin;
    int32_t result;
    if (wrong) return gw__client_refuse(gw, GW_ERROR_ARGUMENT, wrong);
    gw__client_look_at_urls(gw, presence);
    gw__payload_begin(&writer, scratch, GW__OP_PRESENCE);
    begin = gw__buf_len(scratch);
    gw__presence_write(&writer, presence);
    result = gw__client_end_payload(gw, &writer);
    *json = (const char *)gw__buf_data(scratch) + begin;
    /* without the last bracket */
    *len = result == GW_OK ? gw__buf_len(scratch) - begin - 1 : 0;
    return result;
}

/* ---- config ---- */
static uint32_t gw__or_default(uint32_t value, uint32_t otherwise)
{
    return value ? value : otherwise;
}

/* Without what is often pasted with it: "Bot ", blanks, a newline. */
static const char *gw__token_trim(const char *token, size_t *len)
{
    *len = strlen(token);
    while (*len && (uint8_t)token[*len - 1] <= ' ') (*len)--;
    while (*len && (uint8_t)*token <= ' ') { token++; (*len)--; }
    if (*len >= 4 && gw__text_same_nocase(token, 4, "bot ")) {
        token += 4;
        *len -= 4;
        while (*len && *token == ' ') { token++; (*len)--; }
    }
    if (gw__text_same_nocase(token, *len, "bot")) *len = 0;
    return token;
}

/* Keeps a copy for the life of the client; place is one of gw->texts. */
static char *gw__client_keep(gw_client *gw, uint32_t place, const char *text, size_t len,
                             gw__fault *fault)
{
    char *copy = (char *)gw__mem_new(&gw->shared.mem, len + 1);
    if (!copy) {
        gw__fault_set(fault, GW_REASON_MEMORY, 0, "config: no memory for a copy of %lu bytes",
                      (unsigned long)len);
        return NULL;
    }
    memcpy(copy, text, len);
    gw->texts[place] = copy;
    gw->texts_bytes[place] = len + 1;
    return copy;
}

static void gw__client_take_token(gw_client *gw, const gw_config *cfg, gw__fault *fault)
{
    size_t len = 0, i;
    const char *token = cfg->token ? gw__token_trim(cfg->token, &len) : "";
    gw->shared.identity.token = gw__client_keep(gw, GW__TEXT_TOKEN, token, len, fault);
    gw->shared.logger.secret = gw->shared.identity.token;
    if (len == 0)
        gw__fault_set(fault, GW_REASON_CONFIG, 0,
                      "config.token is missing: take it from the Developer Portal (Bot page)");
    if (len > 512)
        gw__fault_set(fault, GW_REASON_CONFIG, 0, "config.token is too long to be one (%lu bytes)",
                      (unsigned long)len);
    for (i = 0; i < len; i++)
        if ((uint8_t)token[i] <= ' ' || (uint8_t)token[i] > '~')
            gw__fault_set(fault, GW_REASON_CONFIG, 0,
                          "config.token has a byte at place %lu that no token has (blank, control "
                          "or not ASCII)",
                          (unsigned long)i);
}

static void gw__client_take_identity(gw_client *gw, const gw_config *cfg, gw__fault *fault)
{
    gw__identity *identity = &gw->shared.identity;
    uint32_t undefined = cfg->intents & ~(uint32_t)GW_INTENTS_ALL;
    const char *json;
    size_t len;
    identity->intents = cfg->intents;
    identity->large_threshold = cfg->large_threshold;
    identity->shard_total = cfg->shard_total;
    if (undefined)
        gw__fault_set(fault, GW_REASON_CONFIG, 4013,
                      "config.intents has bits that Discord does not define: 0x%08x "
                      "(GW_INTENTS_ALL has all that there are)",
                      (unsigned)undefined);
    if (cfg->large_threshold && (cfg->large_threshold < 50 || cfg->large_threshold > 250))
        gw__fault_set(fault, GW_REASON_CONFIG, 0,
                      "config.large_threshold is %u; it must be 50 to 250, or 0 for the default",
                      (unsigned)cfg->large_threshold);
    if (!cfg->presence || fault->reason) return;
    if (gw__client_write_presence(gw, cfg->presence, &json, &len) == GW_OK)
        identity->presence = gw__client_keep(gw, GW__TEXT_PRESENCE, json, len, fault);
    else
        gw__fault_set(fault, GW_REASON_CONFIG, 0, "config.presence: %s", gw->why);
    gw__buf_clear(&gw->shared.scratch);
}

static void gw__client_take_url(gw_client *gw, const gw_config *cfg, gw__fault *fault)
{
    gw__url *url = &gw->shared.gateway_url;
    char target[GW__PATH_MAX];
    gw->discover_at_ms = 0;
    if (!cfg->url || fault->reason) return;
    if (!gw__url_parse(url, cfg->url, strlen(cfg->url), fault)) return;
    if (!gw__url_fits_gateway(url, fault)) return;
    if (!gw__url_gateway_target(url, NULL, target, sizeof target)) {
        gw__fault_set(fault, GW_REASON_CONFIG, 0, "config.url has a path that is too long");
        return;
    }
    gw->shared.has_gateway_url = gw->shared.knows_limits = gw->url_is_given = 1;
    gw->discover_at_ms = GW__NEVER;
}

static void gw__client_take_trust(gw_client *gw, const gw_config *cfg, gw__fault *fault)
{
    gw__trust_source source;
    memset(&source, 0, sizeof source);
    if (cfg->ca_file)
        source.ca_file = gw__client_keep(gw, GW__TEXT_CA_FILE, cfg->ca_file, strlen(cfg->ca_file),
                                         fault);
    if (cfg->ca_pem)
        source.ca_pem = gw__client_keep(gw, GW__TEXT_CA_PEM, cfg->ca_pem, strlen(cfg->ca_pem),
                                        fault);
    source.anchors = cfg->trust_anchors;
    source.anchor_count = cfg->trust_anchor_count;
    source.memory_only = cfg->memory != NULL;
    gw__trust_init(&gw->shared.trust, &gw->shared.mem, &source);
    gw->shared.unix_time_floor = cfg->unix_time_floor;
}

static void gw__client_take_limits(gw_client *gw, const gw_config *cfg, gw__fault *fault)
{
    gw__shared *shared = &gw->shared;
    shared->max_payload = gw__or_default(cfg->max_payload, 64u * 1024u * 1024u);
    shared->ack_by_hand = cfg->ack_by_hand;
    gw->turn_bytes_max = gw__or_default(cfg->turn_bytes, 65536);
    gw->turn_us_max = gw__or_default(cfg->turn_us, 1000);
    if (cfg->compress)
        gw__fault_set(fault, GW_REASON_CONFIG, 0,
                      "config.compress is %u, but no decompressor is compiled in",
                      (unsigned)cfg->compress);
    if (cfg->proxy)
        gw__fault_set(fault, GW_REASON_CONFIG, 0,
                      "config.proxy is not supported by version " GW_VERSION_TEXT);
    if (!gw__gate_init(&shared->gate, &shared->mem, gw__or_default(cfg->max_concurrency, 1)))
        gw__fault_set(fault, GW_REASON_MEMORY, 0, "config: no memory for the identify buckets");
    else if (cfg->identify_remaining)
        gw__gate_limit(&shared->gate, GW__IDENTIFY_DAY_LIMIT, cfg->identify_remaining,
                       gw__or_default(cfg->identify_reset_ms, GW__IDENTIFY_DAY_MS),
                       gw__client_now_us(gw) / 1000u);
}

static void gw__client_take_hooks(gw_client *gw, const gw_config *cfg)
{
    gw__shared *shared = &gw->shared;
    gw->monotonic_us = cfg->monotonic_us;
    gw->boot_us = cfg->boot_us;
    shared->unix_time = cfg->unix_time;
    shared->identify_gate = cfg->identify_gate;
    shared->logger.hook = cfg->log;
    shared->logger.user = cfg->user;
    shared->logger.level = gw__or_default(cfg->log_level, GW_LOG_INFO);
    shared->net.mem = &shared->mem;
    shared->net.logger = &shared->logger;
    shared->net.poller = &shared->poller;
    shared->net.user = cfg->user;
    shared->net.random = cfg->random;
    shared->net.resolve = cfg->resolve;
    shared->net.transport = cfg->transport;
    shared->net.no_thread = cfg->memory != NULL;
}

static void gw__config_refuse_shards(const gw_config *cfg, gw__fault *fault, const char *why)
{
    gw__fault_set(fault, GW_REASON_CONFIG, 4010,
                  "config: shard_first %d, shard_count %d, shard_total %d: %s", (int)cfg->shard_first,
                  (int)cfg->shard_count, (int)cfg->shard_total, why);
}

/* How many shards to run from the start; 0: none yet. The sums are done in 64 bits. */
static uint32_t gw__config_shards(const gw_config *cfg, gw__fault *fault)
{
    int64_t last = (int64_t)cfg->shard_first + cfg->shard_count;
    const char *why = NULL;
    if (cfg->shard_first == 0 && cfg->shard_count == 0 && cfg->shard_total == 0) return 1;
    if (cfg->shard_first < 0 || cfg->shard_total < 0 || cfg->shard_count < GW_ALL)
        why = "none may be negative, but for shard_count GW_ALL";
    else if (cfg->shard_count == GW_ALL && cfg->shard_total == 0 && cfg->shard_first > 0)
        why = "to run a part of the shards, say how many there are in all";
    else if (cfg->shard_count == GW_ALL && cfg->shard_total == 0 && cfg->url)
        why = "GW_ALL asks /gateway/bot how many; with config.url give shard_total";
    else if (cfg->shard_count != GW_ALL && cfg->shard_total == 0)
        why = "shard_total is how many shards the bot has in all";
    else if (cfg->shard_total && (cfg->shard_first >= cfg->shard_total || last > cfg->shard_total))
        why = "the range passes the total; ids go from 0 to shard_total - 1";
    if (why) gw__config_refuse_shards(cfg, fault, why);
    if (cfg->shard_count != GW_ALL) return (uint32_t)cfg->shard_count;
    return cfg->shard_total ? (uint32_t)(cfg->shard_total - cfg->shard_first) : 0;
}

static void gw__client_take_shards(gw_client *gw, const gw_config *cfg, gw__fault *fault)
{
    uint32_t count = gw__config_shards(cfg, fault);
    gw->max_queued = gw__or_default(cfg->max_queued, 64);
    gw->max_queued_ms = gw__or_default(cfg->max_queued_ms, 300000);
    gw->shards_as_advised = cfg->shard_count == GW_ALL && cfg->shard_total == 0;
    gw->shared.by_hand = cfg->shard_count == 0 && cfg->shard_total > 0;
    /* one place at least: /gateway/bot and the wake use the poller's list too */
    if (!fault->reason && (!gw__client_reserve(gw, GW__MAX(count, 1u)) ||
                           !gw__client_add_shards(gw, cfg->shard_first, count)))
        gw__fault_set(fault, GW_REASON_MEMORY, 0, "config: no memory for %u shards",
                      (unsigned)count);
}

/* Takes over what the config says; what is wrong stays in the fault. */
static void gw__client_configure(gw_client *gw, const gw_config *cfg, gw__fault *fault)
{
    gw__client_take_hooks(gw, cfg);
    if (!gw__sys_poller_open(&gw->shared.poller))
        gw__fault_set(fault, GW_REASON_MEMORY, 0,
                      "the system gives no descriptors to wait on: raise the limit of open files");
    gw__client_take_token(gw, cfg, fault);
    gw__client_take_identity(gw, cfg, fault);
    gw__client_take_url(gw, cfg, fault);
    gw__client_take_trust(gw, cfg, fault);
    gw__client_take_limits(gw, cfg, fault);
    gw__names_init(&gw->shared.names);
    gw__buf_init(&gw->hand, &gw->shared.mem, gw->shared.max_payload);
    gw__json_index_init(&gw->index, &gw->shared.mem,
                        cfg->memory ? GW__BLOCK_TOKENS : GW_MAX_TOKENS);
    gw__client_take_shards(gw, cfg, fault);
}

/* A session that the text revives has the presence of the old process: ours follows its RESUMED. */
static void gw__client_want_presence(gw_client *gw, uint64_t now_ms)
{
    uint32_t i;
    for (i = 0; i < gw->shard_count; i++)
        if (gw->shards[i]->session.begun) gw__send_want_presence(&gw->shards[i]->send, 0, now_ms);
}

/* The shards begin at the first poll: with their old sessions, where the text has them. */
static void gw__client_begin(gw_client *gw, const gw_config *cfg)
{
    uint64_t now_ms = gw__client_now_us(gw) / 1000u;
    if (cfg->session && cfg->session_len &&
        !gw__client_load(gw, cfg->session, cfg->session_len, GW_ALL, now_ms))
        gw__notice_push(&gw->shared, GW_SESSION_LOST, GW_ALL,
                        gw__result_text(GW_ERROR_SESSION_TEXT), NULL);
    if (cfg->presence) gw__client_want_presence(gw, now_ms);
    gw->shared.info_wanted = gw->shards_as_advised && gw->shard_count == 0;
    gw__client_start_all(gw, now_ms);
}

static void gw__client_begin_fatal(gw_client *gw, const gw__fault *fault)
{
    gw_event *event = gw__notice_push(&gw->shared, GW_FATAL, GW_ALL, fault->text, NULL);
    gw->shared.fatal = 1;
    if (event) event->reason = fault->reason;
}

/* ---- life ---- */
GW_API uint32_t gw_version(void)
{
    return GW_VERSION;
}

GW_API gw_client *gw_open_sized(const gw_config *given, size_t config_bytes)
{
    gw_config cfg;
    gw__mem mem;
    gw_client *gw;
    gw__fault fault;
    memset(&cfg, 0, sizeof cfg);
    memset(&fault, 0, sizeof fault);
    if (given) memcpy(&cfg, given, GW__MIN(config_bytes, sizeof cfg));
    gw__mem_init(&mem, cfg.alloc, cfg.user);
    if (cfg.memory && !gw__mem_init_block(&mem, cfg.memory, cfg.memory_bytes)) return NULL;
    gw = (gw_client *)gw__mem_new(&mem, sizeof *gw);
    if (!gw) return NULL;
    gw->shared.mem = mem;
    gw__buf_init(&gw->shared.scratch, &gw->shared.mem, GW__SEND_BYTES_MAX + 64);
    gw->shared.scratch.is_secret = 1;
    gw__client_take_hooks(gw, &cfg);
    gw__discover_init(&gw->discover, &gw->shared.net);
    gw__client_configure(gw, &cfg, &fault);
    if (fault.reason) gw__client_begin_fatal(gw, &fault);
    else gw__client_begin(gw, &cfg);
    return gw;
}

GW_API void gw_close(gw_client *gw)
{
    gw__mem mem;
    uint32_t i;
    if (!gw || gw__client_in_hook(gw)) return;
    gw__client_let_go(gw);
    while (gw__client_hand_out_notice(gw)) gw__client_let_go(gw);
    for (i = 0; i < gw->shard_count; i++) {
        gw__shard_goodbye(gw->shards[i]);
        gw__shard_free(gw->shards[i]);
        gw__mem_free(&gw->shared.mem, gw->shards[i], sizeof *gw->shards[i]);
    }
    gw__discover_end(&gw->discover);
    gw__json_index_free(&gw->index);
    gw__buf_free(&gw->hand);
    gw__buf_free(&gw->shared.scratch);
    gw__trust_free(&gw->shared.trust);
    gw__gate_free(&gw->shared.gate);
    gw__sys_poller_close(&gw->shared.poller);
    gw__mem_free(&gw->shared.mem, gw->watches, gw->watches_bytes);
    gw__mem_free(&gw->shared.mem, gw->heap, gw->shard_cap * GW__LISTED_BYTES);
    for (i = 0; i < GW__COUNT(gw->texts); i++) {
        if (gw->texts[i]) gw__mem_wipe(gw->texts[i], gw->texts_bytes[i]);
        gw__mem_free(&gw->shared.mem, gw->texts[i], gw->texts_bytes[i]);
    }
    gw__mem_drop_spares(&gw->shared.mem);
    mem = gw->shared.mem;
    gw__mem_wipe(gw, sizeof *gw);
    gw__mem_free(&mem, gw, sizeof *gw);
}

static const gw_event *gw__client_poll(gw_client *gw)
{
    gw__client_let_go(gw);
    return gw__client_turn(gw);
}

GW_API const gw_event *gw_poll(gw_client *gw)
{
    const gw_event *event;
    if (gw__client_may_enter(gw) != GW_OK) return NULL;
    event = gw__client_poll(gw);
    gw__client_arm(gw);
    return event;
}

/* Sleeps until something stirs, `sleep_ms` at most. */
static void gw__client_sleep(gw_client *gw, int32_t sleep_ms)
{
    gw__client_set_timer(gw);
    gw__client_look(gw, sleep_ms);
}

GW_API const gw_event *gw_wait(gw_client *gw, int32_t timeout_ms)
{
    const gw_event *event;
    uint64_t until_us, now_us;
    int32_t sleep_ms;
    if (gw__client_may_enter(gw) != GW_OK) return NULL;
    until_us = timeout_ms < 0 ? GW__NEVER : gw__sys_monotonic_us() + (uint64_t)timeout_ms * 1000u;
    while ((event = gw__client_poll(gw)) == NULL && !gw->closed) {
        if ((now_us = gw__sys_monotonic_us()) >= until_us) break;
        sleep_ms = gw_timeout_ms(gw);
        if (until_us != GW__NEVER)
            sleep_ms =
                (int32_t)GW__MIN((uint64_t)(uint32_t)sleep_ms, (until_us - now_us + 999u) / 1000u);
        if (sleep_ms) gw__client_sleep(gw, sleep_ms);
    }
    gw__client_arm(gw);
    return event;
}

/* 1: its next event has no place before the one in hand is let go. */
static int gw__client_waits_for_poll(const gw_client *gw, const gw__shard *shard)
{
    return shard->has_event || (shard->in_hand && gw->shared.mem.block);
}

/* Those move to the end of the ready list. 0: there is nobody else. */
static int gw__client_pass_waiting(gw_client *gw)
{
    gw__shard *shard, *passed_first = NULL;
    while ((shard = gw->ready_first) != NULL && shard != passed_first &&
           gw__client_waits_for_poll(gw, shard)) {
        gw__client_push_ready(gw, gw__client_pop_ready(gw));
        if (!passed_first) passed_first = shard;
    }
    return shard && shard != passed_first;
}

/* A turn of its own inside the caller's turn: what it does counts there, but does not end it. */
GW_API void gw_tend(gw_client *gw)
{
    uint64_t now_us;
    uint32_t steps;
    gw__shard *shard;
    if (gw__client_may_enter(gw) != GW_OK) return;
    gw__client_look(gw, 0);
    now_us = gw__client_now_us(gw);
    gw__client_on_sleep(gw, now_us);
    gw__client_on_time(gw, now_us);
    for (steps = 0; steps < GW__TEND_STEPS && gw__notices_have_room(&gw->shared.notices); steps++) {
        if (!gw__client_pass_waiting(gw)) break;
        gw__client_step(gw, now_us, &shard);
        now_us = gw__client_now_us(gw);
    }
    gw__client_arm(gw);
}

GW_API int32_t gw_alive(const gw_client *gw)
{
    return gw && !gw->closed;
}

GW_API int32_t gw_stop(gw_client *gw, uint32_t how)
{
    int32_t result = gw__client_may_enter(gw);
    if (result != GW_OK) return result;
    if (how != GW_KEEP && how != GW_END)
        return gw__client_refuse(gw, GW_ERROR_ARGUMENT, "gw_stop: how is GW_KEEP or GW_END");
    if (!gw->stopping) gw__client_stop_all(gw, how, gw__client_now_us(gw) / 1000u);
    gw__client_arm(gw);
    return GW_OK;
}

/* ---- shards ---- */
GW_API int32_t gw_shard_start(gw_client *gw, int32_t shard, const char *session, size_t session_len)
{
    int32_t result = gw__client_may_change(gw);
    uint64_t now_ms;
    gw__shard *one;
    char before[GW__SESSION_ID_MAX];
    uint32_t number;
    if (result != GW_OK) return result;
    if (shard < 0 || shard >= gw->shared.identity.shard_total)
        return gw__client_refuse(gw, GW_ERROR_ARGUMENT,
                                 "gw_shard_start: ids go from 0 to config.shard_total - 1");
    one = gw__client_shard(gw, shard);
    if (one && one->state != GW__STOPPED)
        return gw__client_refuse(gw, GW_ERROR_ARGUMENT, "gw_shard_start: it runs already");
    if (!one) one = gw__client_add_shard(gw, shard);
    if (!one) return gw__client_refuse(gw, GW_ERROR_NO_MEMORY, "gw_shard_start");
    now_ms = gw__client_now_us(gw) / 1000u;
    number = one->session.number;
    gw__text_format(before, sizeof before, "%s", one->session.id);
    gw__session_forget(&one->session);
    one->stop_how = 0;
    /* an Identify carries it; behind a Resume it follows */
    if (gw__shard_presence(one))
        gw__send_want_presence(&one->send, 0, now_ms);
    if (session && session_len && !gw__client_load(gw, session, session_len, shard, now_ms))
        result = gw__client_refuse(gw, GW_ERROR_SESSION_TEXT, "gw_shard_start");
    /* (shard, session, seq) names an event: another session than before gets a number of its own */
    if (one->session.begun && number && one->session.number <= number &&
        strcmp(before, one->session.id) != 0)
        one->session.number = number + 1;
    gw__mem_wipe(before, sizeof before);
    gw__client_start(gw, one, now_ms);
    gw__client_arm(gw);
    return result;
}

GW_API int32_t gw_shard_stop(gw_client *gw, int32_t shard, uint32_t how)
{
    int32_t result = gw__client_may_change(gw);
    gw__shard *one;
    if (result != GW_OK) return result;
    if (how != GW_KEEP && how != GW_END)
        return gw__client_refuse(gw, GW_ERROR_ARGUMENT, "gw_shard_stop: how is GW_KEEP or GW_END");
    one = gw__client_shard(gw, shard);
    if (!one || one->state == GW__STOPPED)
        return gw__client_refuse(gw, GW_ERROR_NOT_OUR_SHARD, "gw_shard_stop: it does not run");
    gw__shard_cut(one, how, gw__client_now_us(gw) / 1000u);
    gw__client_settle(gw, one, gw__client_now_us(gw) / 1000u);
    gw__client_arm(gw);
    return GW_OK;
}

GW_API int32_t gw_shard_of(const gw_client *gw, uint64_t guild_id)
{
    if (!gw || gw->shared.identity.shard_total <= 0) return 0;
    return (int32_t)((guild_id >> 22) % (uint64_t)gw->shared.identity.shard_total);
}

GW_API int32_t gw_shard_live(const gw_client *gw, int32_t shard)
{
    uint32_t i, live = 0;
    if (!gw) return 0;
    for (i = 0; i < gw->shard_count; i++) {
        if (shard == GW_ALL ? gw->shards[i]->state == GW__STOPPED : gw->shards[i]->id != shard)
            continue;
        if (gw->shards[i]->state != GW__LIVE) return 0;
        live++;
    }
    return live > 0;
}

GW_API int32_t gw_hold(gw_client *gw, int32_t shard, int32_t on)
{
    uint32_t i, found = 0;
    int32_t result = gw__client_may_enter(gw);
    uint64_t now_ms;
    if (result != GW_OK) return result;
    now_ms = gw__client_now_us(gw) / 1000u;
    for (i = 0; i < gw->shard_count; i++) {
        gw__shard *one = gw->shards[i];
        if (shard != GW_ALL && one->id != shard) continue;
        found++;
        if (one->held == (uint32_t)(on != 0)) continue;
        one->held = on != 0;
        if (!on) one->link.readable = 1;        /* what has come meanwhile is looked at first */
        gw__shard_apply_hold(one);
        gw__client_push_ready(gw, one);
        gw__client_settle(gw, one, now_ms);
    }
    gw__client_arm(gw);
    return found ? (int32_t)GW_OK
                 : gw__client_refuse(gw, GW_ERROR_ARGUMENT,
                                     "gw_hold: this client runs no such shard");
}

GW_API int32_t gw_want(gw_client *gw, uint32_t type, int32_t on)
{
    int32_t result = gw__client_may_enter(gw);
    uint64_t bit = UINT64_C(1) << (type & 63u);
    if (result != GW_OK) return result;
    if (type >= GW_DISPATCH_END_ || type == GW_READY || type == GW_RESUMED)
        return gw__client_refuse(gw, GW_ERROR_ARGUMENT,
                                 "gw_want: type is a dispatch other than READY and RESUMED");
    if (on) gw->shared.unwanted[type >> 6] &= ~bit;
    else gw->shared.unwanted[type >> 6] |= bit;
    return GW_OK;
}

/* ---- commands: from the scratch buffer into the queues ---- */

static gw_ticket gw__client_next_ticket(gw_client *gw)
{
    gw->last_ticket = gw->last_ticket == INT32_MAX ? 1 : gw->last_ticket + 1;
    return gw->last_ticket;
}

/* GW_ALL means those that run. */
static int gw__client_is_meant(const gw__shard *one, int32_t shard)
{
    return shard == GW_ALL ? gw__shard_is_running(one) : one->id == shard;
}

static int32_t gw__client_may_queue(gw_client *gw, const gw__shard *one)
{
    if (!gw__shard_is_running(one))
        return gw__client_refuse(gw, GW_ERROR_ENDED, "the shard was stopped");
    if (one->send.count >= one->send.cap) return gw__client_refuse(gw, GW_ERROR_QUEUE_FULL, "");
    return GW_OK;
}

/* The payload in the scratch buffer into the queue of a shard. NULL: no memory. */
static gw__send_item *gw__client_push(gw_client *gw, gw__shard *one, gw_ticket ticket)
{
    gw__buf *scratch = &gw->shared.scratch;
    return gw__send_push(&one->send, ticket, gw__buf_data(scratch), (uint32_t)gw__buf_len(scratch),
                         gw__client_now_us(gw) / 1000u);
}

static void gw__client_queued(gw_client *gw, gw__shard *one)
{
    gw__client_push_ready(gw, one);
    gw__client_settle(gw, one, gw__client_now_us(gw) / 1000u);
    gw__client_arm(gw);
}

/* One had no memory: none has it. */
static gw_ticket gw__client_revoke(gw_client *gw, gw_ticket ticket)
{
    uint32_t i;
    for (i = 0; i < gw->shard_count; i++) gw__send_revoke(&gw->shards[i]->send, ticket);
    return gw__client_refuse(gw, GW_ERROR_NO_MEMORY, "");
}

/* The payload in the scratch buffer, to one shard or to all; to all or to none. */
static gw_ticket gw__client_queue(gw_client *gw, int32_t shard)
{
    gw_ticket ticket;
    uint32_t i, found = 0;
    int32_t result;
    for (i = 0; i < gw->shard_count; i++) {
        if (!gw__client_is_meant(gw->shards[i], shard)) continue;
        found++;
        result = gw__client_may_queue(gw, gw->shards[i]);
        if (result != GW_OK) return result;
    }
    if (!found) return gw__client_refuse(gw, GW_ERROR_NOT_OUR_SHARD, "no such shard runs here");
    ticket = gw__client_next_ticket(gw);
    for (i = 0; i < gw->shard_count; i++) {
        if (!gw__client_is_meant(gw->shards[i], shard)) continue;
        if (!gw__client_push(gw, gw->shards[i], ticket)) return gw__client_revoke(gw, ticket);
        gw__client_queued(gw, gw->shards[i]);
    }
    return ticket;
}

/* The guild's shard, running; NULL with the reason in *result. */
static gw__shard *gw__client_guild_shard(gw_client *gw, uint64_t guild_id, int32_t *result)
{
    gw__shard *one = gw__client_shard(gw, gw_shard_of(gw, guild_id));
    *result = GW_OK;
    if (guild_id == 0) *result = gw__client_refuse(gw, GW_ERROR_ARGUMENT, "guild_id is 0");
    else if (!one) *result = gw__client_refuse(gw, GW_ERROR_NOT_OUR_SHARD, "");
    else if (!gw__shard_is_running(one))
        *result = gw__client_refuse(gw, GW_ERROR_ENDED, "the guild's shard was stopped");
    return *result == GW_OK ? one : NULL;
}

static int32_t gw__client_write_raw(gw_client *gw, uint32_t op, const char *d, size_t len)
{
    gw__json_writer writer;
    if (len > GW__SEND_BYTES_MAX) return gw__client_refuse(gw, GW_ERROR_TOO_LARGE, "");
    if (!d || !gw__utf8_is(d, len))
        return gw__client_refuse(gw, GW_ERROR_ARGUMENT, "gw_send_raw: d is missing or not UTF-8");
    if (!gw__json_is_valid(d, len))
        return gw__client_refuse(gw, GW_ERROR_ARGUMENT, "gw_send_raw: d is not valid JSON");
    if (op == GW__OP_HEARTBEAT || op == GW__OP_IDENTIFY || op == GW__OP_RESUME)
        return gw__client_refuse(gw, GW_ERROR_ARGUMENT,
                                 "gw_send_raw: ops 1, 2 and 6 are sent by the library itself");
    gw__payload_begin(&writer, &gw->shared.scratch, op);
    gw__json_write_raw(&writer, d, len);
    return gw__client_end_payload(gw, &writer);
}

GW_API gw_ticket gw_send_raw(gw_client *gw, int32_t shard, uint32_t op, const char *d, size_t len)
{
    int32_t result = gw__client_may_change(gw);
    if (result != GW_OK) return result;
    result = gw__client_write_raw(gw, op, d, len);
    if (result == GW_OK) result = gw__client_queue(gw, shard);
    gw__buf_clear(&gw->shared.scratch);         /* the next payload begins with nothing before it */
    return result;
}

/* ---- presence ---- */

static int32_t gw__client_may_set_presence(gw_client *gw, int32_t shard)
{
    uint32_t i, found = shard == GW_ALL;        /* with no shard yet it is kept for those to come */
    for (i = 0; i < gw->shard_count; i++) {
        gw__shard *one = gw->shards[i];
        if (!gw__client_is_meant(one, shard)) continue;
        found = 1;
        if (!gw__shard_is_running(one))
            return gw__client_refuse(gw, GW_ERROR_ENDED, "the shard was stopped");
        if (!gw__send_has_presence_place(&one->send))
            return gw__client_refuse(gw, GW_ERROR_QUEUE_FULL, "");
        if (!gw__send_reserve_presence(&one->send))
            return gw__client_refuse(gw, GW_ERROR_NO_MEMORY, "gw_set_presence");
    }
    return found ? (int32_t)GW_OK
                 : gw__client_refuse(gw, GW_ERROR_NOT_OUR_SHARD, "no such shard runs here");
}

/* json: a copy that becomes the shard's, or with GW_ALL the client's. */
static gw_ticket gw__client_take_presence(gw_client *gw, int32_t shard, char *json, size_t len)
{
    gw_ticket ticket = gw__client_next_ticket(gw);
    uint64_t now_ms = gw__client_now_us(gw) / 1000u;
    uint32_t i;
    if (shard == GW_ALL) {
        gw__mem_free(&gw->shared.mem, gw->texts[GW__TEXT_PRESENCE],
                     gw->texts_bytes[GW__TEXT_PRESENCE]);
        gw->texts[GW__TEXT_PRESENCE] = json;
        gw->texts_bytes[GW__TEXT_PRESENCE] = len + 1;
        gw->shared.identity.presence = json;
    }
    for (i = 0; i < gw->shard_count; i++) {
        gw__shard *one = gw->shards[i];
        if (shard != GW_ALL && one->id != shard) continue;
        gw__send_keep_presence(&one->send, shard == GW_ALL ? NULL : json);
        if (!gw__shard_is_running(one)) continue;
        gw__send_want_presence(&one->send, ticket, now_ms);
        gw__client_queued(gw, one);
    }
    return ticket;
}

GW_API gw_ticket gw_set_presence(gw_client *gw, int32_t shard, const gw_presence *presence)
{
    int32_t result = gw__client_may_change(gw);
    const char *json;
    char *copy = NULL;
    size_t len;
    if (result != GW_OK) return result;
    result = gw__client_write_presence(gw, presence, &json, &len);
    if (result == GW_OK) result = gw__client_may_set_presence(gw, shard);
    if (result == GW_OK) copy = (char *)gw__mem_new(&gw->shared.mem, len + 1);
    if (copy) memcpy(copy, json, len);
    gw__buf_clear(&gw->shared.scratch);
    if (result != GW_OK) return result;
    if (!copy) return gw__client_refuse(gw, GW_ERROR_NO_MEMORY, "gw_set_presence");
    return gw__client_take_presence(gw, shard, copy, len);
}

/* ---- what concerns one guild ---- */
GW_API gw_ticket gw_set_voice(gw_client *gw, uint64_t guild_id, uint64_t channel_id, int32_t mute,
                              int32_t deaf)
{
    int32_t result = gw__client_may_change(gw);
    gw__json_writer writer;
    gw__shard *one;
    if (result != GW_OK) return result;
    one = gw__client_guild_shard(gw, guild_id, &result);
    if (!one) return result;
    gw__payload_begin(&writer, &gw->shared.scratch, GW__OP_VOICE_STATE);
    gw__voice_state_write(&writer, guild_id, channel_id, mute, deaf);
    result = gw__client_end_payload(gw, &writer);
    if (result == GW_OK) result = gw__client_queue(gw, one->id);
    gw__buf_clear(&gw->shared.scratch);
    return result;
}

GW_API gw_ticket gw_request_channel_info(gw_client *gw, uint64_t guild_id, int32_t status,
                                         int32_t voice_start_time)
{
    int32_t result = gw__client_may_change(gw);
    gw__json_writer writer;
    gw__shard *one;
    if (result != GW_OK) return result;
    if (!status && !voice_start_time)
        return gw__client_refuse(gw, GW_ERROR_ARGUMENT,
                                 "gw_request_channel_info: neither status nor voice_start_time");
    one = gw__client_guild_shard(gw, guild_id, &result);
    if (!one) return result;
    gw__payload_begin(&writer, &gw->shared.scratch, GW__OP_CHANNEL_INFO);
    gw__channel_info_write(&writer, guild_id, status, voice_start_time);
    result = gw__client_end_payload(gw, &writer);
    if (result == GW_OK) result = gw__client_queue(gw, one->id);
    gw__buf_clear(&gw->shared.scratch);
    return result;
}

static gw_ticket gw__client_queue_members(gw_client *gw, gw__shard *one, const gw_members *request)
{
    gw__send_item *item;
    int32_t result = gw__client_may_queue(gw, one);
    int is_whole_list = gw__members_is_whole_list(request);
    if (result != GW_OK) return result;
    if (is_whole_list && !gw__send_remember_whole_lists(&one->send))
        return gw__client_refuse(gw, GW_ERROR_NO_MEMORY, "gw_request_members");
    item = gw__client_push(gw, one, gw__client_next_ticket(gw));
    if (!item) return gw__client_refuse(gw, GW_ERROR_NO_MEMORY, "gw_request_members");
    item->guild_id = request->guild_id;
    item->is_whole_list = is_whole_list != 0;
    item->retry = request->retry;
    gw__client_queued(gw, one);
    return item->ticket;
}

GW_API gw_ticket gw_request_members(gw_client *gw, const gw_members *request)
{
    int32_t result = gw__client_may_change(gw);
    gw__json_writer writer;
    gw__shard *one;
    const char *wrong;
    if (result != GW_OK) return result;
    wrong = gw__members_fault(request, gw->shared.identity.intents);
    if (wrong) return gw__client_refuse(gw, GW_ERROR_ARGUMENT, wrong);
    one = gw__client_guild_shard(gw, request->guild_id, &result);
    if (!one) return result;
    gw__payload_begin(&writer, &gw->shared.scratch, GW__OP_MEMBERS);
    gw__members_write(&writer, request);
    result = gw__client_end_payload(gw, &writer);
    if (result == GW_OK) result = gw__client_queue_members(gw, one, request);
    gw__buf_clear(&gw->shared.scratch);
    return result;
}

/* ---- soundboard sounds: guilds of several shards, one ticket ---- */

/* The payload for one shard into the scratch buffer; how many of the guilds are its. */
static uint32_t gw__client_write_sounds(gw_client *gw, const gw__shard *one,
                                        const uint64_t *guild_ids,
                                        uint32_t count, int32_t *result)
{
    gw__json_writer writer;
    uint32_t i, found = 0;
    gw__buf_clear(&gw->shared.scratch);
    gw__payload_begin(&writer, &gw->shared.scratch, GW__OP_SOUNDS);
    gw__json_write_open(&writer, '{');
    gw__json_write_key(&writer, "guild_ids");
    gw__json_write_open(&writer, '[');
    for (i = 0; i < count; i++) {
        if (gw_shard_of(gw, guild_ids[i]) != one->id) continue;
        gw__json_write_id(&writer, guild_ids[i]);
        found++;
    }
    gw__json_write_close(&writer, ']');
    gw__json_write_close(&writer, '}');
    *result = found ? gw__client_end_payload(gw, &writer) : (int32_t)GW_OK;
    return found;
}

static int32_t gw__client_may_request_sounds(gw_client *gw, const uint64_t *guild_ids,
                                             uint32_t count)
{
    uint32_t i;
    int32_t result = GW_OK;
    if (!guild_ids || count == 0)
        return gw__client_refuse(gw, GW_ERROR_ARGUMENT, "gw_request_sounds: no guild_ids");
    for (i = 0; i < count; i++)
        if (!gw__client_guild_shard(gw, guild_ids[i], &result)) return result;
    for (i = 0; i < gw->shard_count && result == GW_OK; i++)
        if (gw__client_write_sounds(gw, gw->shards[i], guild_ids, count, &result) &&
            result == GW_OK)
            result = gw__client_may_queue(gw, gw->shards[i]);
    return result;
}

GW_API gw_ticket gw_request_sounds(gw_client *gw, const uint64_t *guild_ids, uint32_t count)
{
    int32_t result = gw__client_may_change(gw);
    gw_ticket ticket = 0;
    uint32_t i;
    if (result != GW_OK) return result;
    result = gw__client_may_request_sounds(gw, guild_ids, count);
    if (result == GW_OK) ticket = gw__client_next_ticket(gw);
    for (i = 0; i < gw->shard_count && result == GW_OK; i++) {
        gw__shard *one = gw->shards[i];
        if (!gw__client_write_sounds(gw, one, guild_ids, count, &result)) continue;
        if (!gw__client_push(gw, one, ticket)) result = gw__client_revoke(gw, ticket);
        else gw__client_queued(gw, one);
    }
    gw__buf_clear(&gw->shared.scratch);
    return result == GW_OK ? ticket : result;
}

/* ---- other people's loops ---- */
GW_API intptr_t gw_fd(gw_client *gw)
{
    if (!gw || gw__client_in_hook(gw)) return GW__NO_FD;
    gw->fd_asked = 1;
    gw__client_arm(gw);
    return gw__sys_poller_fd(&gw->shared.poller);
}

static uint32_t gw__client_pollfd(const gw__link *link, gw_pollfd *out, uint32_t cap, uint32_t at)
{
    if (link->tcp.fd == GW__NO_FD || link->tcp.watched == 0) return at;
    if (at < cap) {
        out[at].fd = link->tcp.fd;
        out[at].readable = (link->tcp.watched & GW__WANT_READ) != 0;
        out[at].writable = (link->tcp.watched & GW__WANT_WRITE) != 0;
    }
    return at + 1;
}

GW_API uint32_t gw_pollfds(gw_client *gw, gw_pollfd *out, uint32_t cap)
{
    uint32_t i, count = 1;
    if (!gw || gw__client_in_hook(gw)) return 0;
    if (cap) {
        out[0].fd = gw__sys_poller_wake_fd(&gw->shared.poller);
        out[0].readable = 1;
        out[0].writable = 0;
    }
    for (i = 0; i < gw->shard_count; i++)
        count = gw__client_pollfd(&gw->shards[i]->link, out, cap, count);
    return gw__client_pollfd(&gw->discover.link, out, cap, count);
}

GW_API int32_t gw_timeout_ms(gw_client *gw)
{
    uint64_t now_us, next_ms;
    if (!gw || gw->closed || gw__client_in_hook(gw)) return -1;
    if (gw__client_has_work(gw)) return 0;
    if (gw->stopping ? gw__client_all_stopped(gw) : gw->shared.fatal != 0) return 0;
    now_us = gw__client_now_us(gw);
    next_ms = gw__client_next_ms(gw);
    if (next_ms <= now_us / 1000u) return 0;
    return (int32_t)GW__MIN(next_ms - now_us / 1000u, INT32_MAX);
}

GW_API void gw_wake(gw_client *gw)
{
    if (gw) gw__sys_wake(gw__sys_poller_wake_end(&gw->shared.poller), GW__WOKEN_BY_CALLER);
}

GW_API void gw_recheck(gw_client *gw)
{
    uint32_t i;
    uint64_t now_us;
    if (gw__client_may_enter(gw) != GW_OK) return;
    now_us = gw__client_now_us(gw);
    for (i = 0; i < gw->shard_count; i++) {
        gw__shard *shard = gw->shards[i];
        if (shard->state == GW__WAITING && !shard->wait_is_asked)
            gw__client_kick(gw, shard, now_us / 1000u);
        if (shard->session.interval_ms == 0 || !gw__shard_is_open(shard) ||
            shard->probe_deadline_is_set || !gw__send_may_probe(&shard->send, now_us / 1000u))
            continue;
        gw__shard_beat(shard, now_us);
        shard->probe_deadline_is_set = 1;
        shard->probe_deadline_ms = now_us / 1000u + GW__PROBE_MS;
        gw__client_settle(gw, shard, now_us / 1000u);
    }
    if (gw->discover_at_ms != GW__NEVER && gw->discover.http.status != 429)
        gw->discover_at_ms = now_us / 1000u;
    gw__client_arm(gw);
}

/* ---- sessions, numbers ---- */
GW_API int32_t gw_ack(gw_client *gw, int32_t shard, uint32_t session, uint64_t seq)
{
    gw__shard *one;
    int32_t result = gw ? GW_OK : GW_ERROR_ENDED;
    if (result != GW_OK || gw__client_in_hook(gw))
        return result ? result : (int32_t)GW_ERROR_IN_HOOK;
    one = gw__client_shard(gw, shard);
    if (!one) return gw__client_refuse(gw, GW_ERROR_NOT_OUR_SHARD, "gw_ack");
    /* of a session that is gone: nothing to keep */
    if (session != one->session.number || !one->session.id[0]) return GW_OK;
    if (!one->session.has_received || seq > one->session.received_seq)
        return gw__client_refuse(gw, GW_ERROR_ARGUMENT, "gw_ack: that seq has not come yet");
    if (one->session.has_taken && seq <= one->session.taken_seq) return GW_OK;
    one->session.taken_seq = seq;
    one->session.has_taken = 1;
    return GW_OK;
}

GW_API uint64_t gw_user_id(const gw_client *gw)
{
    return gw ? gw->shared.user_id : 0;
}

GW_API uint64_t gw_application_id(const gw_client *gw)
{
    return gw ? gw->shared.application_id : 0;
}

GW_API const char *gw_why(const gw_client *gw)
{
    if (!gw) return "there is no client: gw_open() had no memory for one";
    return gw__client_in_hook(gw) ? gw__result_text(GW_ERROR_IN_HOOK) : gw->why;
}

static void gw__stats_add(gw_stats *stats, const gw__shard *shard)
{
    stats->events += shard->events;
    stats->filtered += shard->filtered;
    stats->skipped += shard->skipped;
    stats->wire_bytes_in += shard->link.bytes_in;
    stats->wire_bytes_out += shard->link.bytes_out;
    stats->payload_bytes += shard->payload_bytes;
    stats->heartbeats += shard->session.heartbeats;
    stats->acks += shard->session.acks;
    stats->latency_us = GW__MAX(stats->latency_us, shard->session.latency_us);
    stats->latency_mean_us += shard->session.latency_sum_us;  /* a sum until all shards are in */
    stats->connects += shard->connects;
    stats->resumes += shard->resumes;
    stats->identifies += shard->identifies;
    stats->sends += shard->send.sends;
    stats->send_queue += gw__send_waiting(&shard->send);
    stats->sends_dropped += shard->send.dropped;
    stats->polls_late += shard->polls_late;
}

/* How many shards were meant. */
static uint32_t gw__client_sum_stats(gw_client *gw, int32_t shard, gw_stats *stats)
{
    uint32_t i, found = 0;
    memset(stats, 0, sizeof *stats);
    for (i = 0; i < gw->shard_count; i++) {
        if (shard != GW_ALL && gw->shards[i]->id != shard) continue;
        gw__stats_add(stats, gw->shards[i]);
        found++;
    }
    if (stats->acks) stats->latency_mean_us /= stats->acks;
    stats->identifies_left = gw__gate_left(&gw->shared.gate, gw__client_now_us(gw) / 1000u);
    stats->longest_turn_us = gw->longest_turn_us;
    stats->memory_now = gw->shared.mem.now_bytes;
    stats->memory_peak = gw->shared.mem.peak_bytes;
    return found;
}

GW_API int32_t gw_stats_read_sized(gw_client *gw, int32_t shard, gw_stats *out, size_t stats_bytes)
{
    gw_stats stats;
    if (out) memset(out, 0, stats_bytes);
    if (!gw || !out)
        return gw ? gw__client_refuse(gw, GW_ERROR_ARGUMENT, "gw_stats_read: out is NULL")
                  : (int32_t)GW_ERROR_ENDED;
    /* it asks the clock, which may be one */
    if (gw__client_in_hook(gw)) return GW_ERROR_IN_HOOK;
    if (!gw__client_sum_stats(gw, shard, &stats) && shard != GW_ALL)
        return gw__client_refuse(gw, GW_ERROR_NOT_OUR_SHARD, "gw_stats_read");
    memcpy(out, &stats, GW__MIN(stats_bytes, sizeof stats));
    return GW_OK;
}

/* ---- the same numbers as Prometheus text (its "Text-based format") ---- */
typedef enum gw__stat_unit { GW__STAT_COUNT, GW__STAT_SECONDS } gw__stat_unit;

/* field of gw_stats, name behind "discord_gateway_", type, unit, 1: of each shard, help */
#define GW__STATS(X) \
    X(events, "events_total", "counter", COUNT, 1, "Dispatches handed out.") \
    X(filtered, "filtered_total", "counter", COUNT, 1, "Dispatches dropped by gw_want().") \
    X(skipped, "skipped_total", "counter", COUNT, 1, "Payloads passed over as too large.") \
    X(wire_bytes_in, "wire_received_bytes_total", "counter", COUNT, 1, "Bytes in, TLS included.") \
    X(wire_bytes_out, "wire_sent_bytes_total", "counter", COUNT, 1, "Bytes out, TLS included.") \
    X(payload_bytes, "payload_bytes_total", "counter", COUNT, 1, "JSON received.") \
    X(heartbeats, "heartbeats_total", "counter", COUNT, 1, "Heartbeats sent.") \
    X(acks, "acks_total", "counter", COUNT, 1, "Heartbeats answered.") \
    X(latency_us, "latency_seconds", "gauge", SECONDS, 1, "Of the last heartbeat.") \
    X(latency_mean_us, "latency_mean_seconds", "gauge", SECONDS, 1, "Of all heartbeats.") \
    X(connects, "connects_total", "counter", COUNT, 1, "Connections begun.") \
    X(resumes, "resumes_total", "counter", COUNT, 1, "Resumes sent.") \
    X(identifies, "identifies_total", "counter", COUNT, 1, "Identifies sent.") \
    X(identifies_left, "identifies_left", "gauge", COUNT, 0, "Identifies left in this day.") \
    X(sends, "sends_total", "counter", COUNT, 1, "Payloads sent, heartbeats included.") \
    X(send_queue, "send_queue", "gauge", COUNT, 1, "Commands that wait.") \
    X(sends_dropped, "sends_dropped_total", "counter", COUNT, 1, "Commands dropped.") \
    X(polls_late, "polls_late_total", "counter", COUNT, 1, "Heartbeats a second late or more.") \
    X(longest_turn_us, "longest_turn_seconds", "gauge", SECONDS, 0, "Longest turn of gw_poll().") \
    X(memory_now, "memory_bytes", "gauge", COUNT, 0, "Memory in use.") \
    X(memory_peak, "memory_peak_bytes", "gauge", COUNT, 0, "Memory in use at its highest.")

typedef struct gw__stat {
    const char *name, *type, *help;
    size_t offset;
    gw__stat_unit unit;
    uint32_t of_shard;
} gw__stat;

/* counts on where the room ends */
typedef struct gw__page { char *out; size_t cap, len; } gw__page;

static void gw__page_add(gw__page *page, const char *format, ...) GW__FORMAT(2, 3);

static void gw__page_add(gw__page *page, const char *format, ...)
{
    char line[200];
    va_list list;
    size_t len;
    va_start(list, format);
    len = gw__text_format_list(line, sizeof line, format, list);
    va_end(list);
    gw__json_put(page->out, page->cap, &page->len, line, len);
}

static void gw__page_add_stat(gw__page *page, const gw__stat *stat, const gw_stats *stats,
                              const char *label)
{
    uint64_t value;
    memcpy(&value, (const char *)stats + stat->offset, sizeof value);
    if (stat->unit == GW__STAT_SECONDS)
        gw__page_add(page, "discord_gateway_%s%s %llu.%06llu\n", stat->name, label,
                     (unsigned long long)(value / 1000000u), (unsigned long long)(value % 1000000u));
    else
        gw__page_add(page, "discord_gateway_%s%s %llu\n", stat->name, label,
                     (unsigned long long)value);
}

static void gw__page_add_shards(gw__page *page, gw_client *gw, const gw__stat *stat)
{
    gw_stats stats;
    char label[32];
    uint32_t i;
    for (i = 0; i < gw->shard_count; i++) {
        gw_stats_read(gw, gw->shards[i]->id, &stats);
        gw__text_format(label, sizeof label, "{shard=\"%d\"}", (int)gw->shards[i]->id);
        gw__page_add_stat(page, stat, &stats, label);
    }
}

static void gw__page_add_live(gw__page *page, gw_client *gw)
{
    uint32_t i;
    gw__page_add(page, "# HELP discord_gateway_live 1 after READY or RESUMED.\n"
                       "# TYPE discord_gateway_live gauge\n");
    for (i = 0; i < gw->shard_count; i++)
        gw__page_add(page, "discord_gateway_live{shard=\"%d\"} %d\n", (int)gw->shards[i]->id,
                     gw->shards[i]->state == GW__LIVE);
}

GW_API size_t gw_stats_text(gw_client *gw, char *out, size_t cap)
{
#define GW__STAT(field, name, type, unit, of_shard, help) \
    { name, type, help, offsetof(gw_stats, field), GW__STAT_##unit, of_shard },
    static const gw__stat rows[] = { GW__STATS(GW__STAT) };
#undef GW__STAT
    gw__page page;
    gw_stats stats;
    size_t i;
    page.out = out;
    page.cap = cap ? cap - 1 : 0;
    page.len = 0;
    if (cap) out[0] = 0;
    if (!gw || gw__client_in_hook(gw)) return 0;
    gw__client_sum_stats(gw, GW_ALL, &stats);
    gw__page_add_live(&page, gw);
    for (i = 0; i < GW__COUNT(rows); i++) {
        gw__page_add(&page, "# HELP discord_gateway_%s %s\n# TYPE discord_gateway_%s %s\n",
                     rows[i].name,
                     rows[i].help, rows[i].name, rows[i].type);
        if (rows[i].of_shard) gw__page_add_shards(&page, gw, &rows[i]);
        else gw__page_add_stat(&page, &rows[i], &stats, "");
    }
    if (cap) out[GW__MIN(page.len, cap - 1)] = 0;
    return page.len;
}

/* Of one shard: what it always has, and the larger of a handshake's memory and of what a live
 * connection takes for its payload and its tokens; they never come together. */
static size_t gw__shard_memory_needed(const gw_config *cfg)
{
    size_t head = 2 * GW__CELL_ALIGN, queued = gw__or_default(cfg->max_queued, 64);
    size_t live = gw__or_default(cfg->max_payload, 64u * 1024u * 1024u) + head +
                  GW__BLOCK_TOKENS * 3 / 2 * sizeof(gw__jsmn_token) + head;
    size_t handshake = sizeof(gw__verifier_work) + head + GW__HTTP_REQUEST_MAX + head;
    return sizeof(gw__shard) + GW__LISTED_BYTES + GW__WATCH_BYTES + sizeof(gw__tls) +
           GW__TLS_IN_BYTES + 2 * head + GW__READ_AHEAD_SMALL + head +
           GW__SEND_BYTES_MAX + 64 + head +
           queued * (sizeof(gw__send_item) + GW__SEND_BYTES_MAX + head) + head +
           (cfg->presence ? GW__SEND_BYTES_MAX + 2 * sizeof(gw__send_item) + 3 * head : 0) +
           GW__MAX(live, handshake);
}

/* How many shards may ever run; 1 where only /gateway/bot knows. */
static size_t gw__config_most_shards(const gw_config *cfg)
{
    int64_t count = cfg->shard_count;
    if (count == 0) count = cfg->shard_total;
    if (count == GW_ALL) count = (int64_t)cfg->shard_total - cfg->shard_first;
    return count > 0 ? (size_t)count : 1;
}

/* Every piece that the client may hold at once, each with the block's head and rounding. */
GW_API size_t gw_memory_needed_sized(const gw_config *given, size_t config_bytes)
{
    gw_config cfg;
    gw__trust_source source;
    size_t shards, shared, head = 2 * GW__CELL_ALIGN;
    memset(&cfg, 0, sizeof cfg);
    memset(&source, 0, sizeof source);
    if (given) memcpy(&cfg, given, GW__MIN(config_bytes, sizeof cfg));
    source.ca_pem = cfg.ca_pem;
    source.anchors = cfg.trust_anchors;
    source.anchor_count = cfg.trust_anchor_count;
    source.memory_only = 1;
    shards = gw__config_most_shards(&cfg);
    shared = sizeof(gw_client) + GW__SEND_BYTES_MAX + 64 + GW__NOTICES_MAX * (160 + head) +
             gw__or_default(cfg.max_concurrency, 1) * sizeof(uint64_t) + 2 * GW__WATCH_BYTES +
             (cfg.token ? strlen(cfg.token) + 1 : 0) + (cfg.ca_pem ? strlen(cfg.ca_pem) + 1 : 0) +
             (cfg.presence ? GW__SEND_BYTES_MAX : 0) + 12 * head;
    return shared + gw__trust_memory_needed(&source) + shards * gw__shard_memory_needed(&cfg);
}

#if !defined GW__API_IS_SHARED && (defined __GNUC__ || defined __clang__)
#pragma GCC diagnostic pop
#endif
#endif /* DISCORD_GATEWAY_IMPLEMENTED */
#endif /* DISCORD_GATEWAY_IMPLEMENTATION */

/*
 * MIT License
 *
 * Copyright (c) 2026 The discord_gateway.h authors
 *
 * Permission is hereby granted, free of charge, to any person obtaining a copy
 * of this software and associated documentation files (the "Software"), to deal
 * in the Software without restriction, including without limitation the rights
 * to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
 * copies of the Software, and to permit persons to whom the Software is
 * furnished to do so, subject to the following conditions:
 *
 * The above copyright notice and this permission notice shall be included in all
 * copies or substantial portions of the Software.
 *
 * THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
 * IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
 * FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
 * AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
 * LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
 * OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
 * SOFTWARE.
 */
