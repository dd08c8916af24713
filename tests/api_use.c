/* Three programs against the public part; valid C99 and C++11. They are compiled (-c), never run: they show that the
 * declarations serve a game's plugin, a worker of a fleet and a small board. What they call of their host is declared only.
 * One file, -DPROGRAM=1, 2 or 3; without it all three compile. */
#define _GNU_SOURCE 1
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "discord_gateway.h"

/* ================= 1. A game server's plugin: 16 ms frames, a scripting host, Windows and Linux ===================== */
#if !defined PROGRAM || PROGRAM == 1
extern int  game_running(void), game_players(void);
extern void game_frame(void);
extern void script_on_message(const char *author, const char *text, uint64_t channel_id);   /* e.g. lua_pushlstring ... */

static gw_client *plugin_gw;

void plugin_start(void)
{
    gw_config cfg = GW_INIT;
    cfg.token   = getenv("DISCORD_TOKEN");
    cfg.intents = GW_INTENT_GUILDS | GW_INTENT_GUILD_MESSAGES | GW_INTENT_MESSAGE_CONTENT;
    cfg.turn_us = 500;                                  /* at most half a millisecond of a frame */
    plugin_gw = gw_open(&cfg);
    gw_want(plugin_gw, GW_GUILD_CREATE, 0);             /* ten megabytes that we would not read: never stored */
}

static void plugin_event(const gw_event *ev)
{
    static const char *const paths[] = { "author.username", "channel_id", "author.bot" };
    gw_json field[3];
    char author[64], text[4096];
    if (ev->type == GW_MESSAGE_CREATE) {
        gw_pick(&ev->d, paths, 3, field);
        if (gw_true(&field[2], NULL)) return;
        gw_text(&field[0], NULL, author, sizeof author);
        gw_text(&ev->d, "content", text, sizeof text);  /* decoded and 0-terminated: what a script expects */
        script_on_message(author, text, gw_u64(&field[1], NULL));
    } else if (ev->type == GW_DISCONNECTED || ev->type == GW_FATAL) {
        fprintf(stderr, "discord: %s\n", ev->message);
    }
}

void plugin_frame(void)
{
    const gw_event *ev;
    while ((ev = gw_poll(plugin_gw)) != NULL) plugin_event(ev); /* ends by itself: the turn has a budget */
}

void plugin_loading_screen_tick(void) { gw_tend(plugin_gw); }   /* a level loads for a minute: stay online, take no events */
void plugin_machine_woke(void)        { gw_recheck(plugin_gw); }    /* WM_POWERBROADCAST, logind */

void plugin_show_players(void)
{
    char line[64];
    gw_activity activity = GW_INIT;
    gw_presence presence = GW_INIT;
    snprintf(line, sizeof line, "%d players", game_players());
    activity.name = line;
    presence.activities = &activity;
    presence.activity_count = 1;
    if (gw_set_presence(plugin_gw, GW_ALL, &presence) < 0) fprintf(stderr, "discord: %s\n", gw_why(plugin_gw));
}

int plugin_main(void)
{
    int frame = 0;
    plugin_start();
    while (game_running()) {
        plugin_frame();
        if (frame++ % 3600 == 0) plugin_show_players();
        game_frame();
    }
    gw_stop(plugin_gw, GW_END);                         /* the one call that cannot be undone */
    while (gw_alive(plugin_gw)) if (!gw_wait(plugin_gw, 100)) game_frame();
    gw_close(plugin_gw);
    return 0;
}
#endif

/* ================= 2. A worker of a fleet: epoll shared with Redis; leases, acknowledgements, hold ================== */
#if (!defined PROGRAM || PROGRAM == 2) && defined __linux__
#include <sys/epoll.h>
extern int     redis_fd(void), redis_up(void);
extern void    redis_publish(const char *name, const gw_event *ev);     /* pipelined: the answer comes later */
extern int     redis_next_answer(int32_t *shard, uint32_t *session, uint64_t *seq);
extern int     redis_next_lease(int32_t *shard, int *won, char *session, size_t cap);
extern void    redis_save(int32_t shard, const char *session, size_t len);
extern int32_t redis_gate(void *user, int32_t shard, uint32_t bucket);  /* 0 go, else ask again in n ms */

static void worker_on_redis(gw_client *gw)
{
    char text[GW_SESSION_MAX];
    int32_t shard;
    uint32_t session;
    uint64_t seq;
    int won;
    while (redis_next_answer(&shard, &session, &seq)) {
        gw_ack(gw, shard, session, seq);
        redis_save(shard, text, gw_session_save(gw, shard, text, sizeof text));
    }
    while (redis_next_lease(&shard, &won, text, sizeof text)) {
        if (won) gw_shard_start(gw, shard, text, strlen(text));         /* resumes where the dead worker was */
        else     gw_shard_stop(gw, shard, GW_KEEP);                     /* our fence is old: not a byte more */
    }
    gw_hold(gw, GW_ALL, !redis_up());                   /* cannot store: heartbeats go on, TCP holds the events */
}

int worker_main(int32_t total)
{
    struct epoll_event add = GW_INIT, ready[8];
    const gw_event *ev;
    gw_client *gw;
    gw_config cfg = GW_INIT;
    int loop = epoll_create1(EPOLL_CLOEXEC), n, i;
    cfg.token = getenv("DISCORD_TOKEN");
    cfg.intents = GW_INTENTS_UNPRIVILEGED;
    cfg.url = "wss://gateway.discord.gg";               /* asked once by the fleet, not by each of 200 workers */
    cfg.max_concurrency = 16;
    cfg.shard_total = total;                            /* shard_count 0: none until a lease is won */
    cfg.ack_by_hand = 1;
    cfg.identify_gate = redis_gate;
    gw = gw_open(&cfg);

    add.events = EPOLLIN;
    add.data.u32 = 0;
    epoll_ctl(loop, EPOLL_CTL_ADD, (int)gw_fd(gw), &add);   /* the whole integration: no timer, no "pending" question */
    add.data.u32 = 1;
    epoll_ctl(loop, EPOLL_CTL_ADD, redis_fd(), &add);
    while (gw_alive(gw)) {
        n = epoll_wait(loop, ready, 8, -1);
        for (i = 0; i < n; i++) {
            if (ready[i].data.u32 == 1) { worker_on_redis(gw); continue; }
            while ((ev = gw_poll(gw)) != NULL)
                if (ev->type < GW_GATEWAY_INFO) redis_publish(ev->name, ev);
                else if (ev->type == GW_SHARD_STOPPED || ev->type == GW_FATAL) fprintf(stderr, "%d: %s\n", (int)ev->shard, ev->message);
        }
    }
    gw_close(gw);
    return 1;
}
#endif

/* ================= 3. A lamp on a board: 64 MiB, musl, static, no clock, no malloc after start; built with GW_BUNDLED_ROOTS ====================== */
#if (!defined PROGRAM || PROGRAM == 3) && !defined _WIN32
#include <fcntl.h>
#include <unistd.h>
extern void lamp(int on);
extern uint64_t board_build_time(void);
static union { uint64_t align; unsigned char bytes[96 * 1024]; } board_memory;
static gw_client *board_gw;
static volatile sig_atomic_t board_ends;

static void board_on_signal(int number) { (void)number; board_ends = 1; gw_wake(board_gw); }

static size_t board_file(const char *name, char *text, size_t len, int flags)   /* no stdio: fopen() calls malloc() */
{
    int fd = open(name, flags, 0600);
    ssize_t done;
    if (fd < 0) return 0;
    done = (flags & O_WRONLY) ? write(fd, text, len) : read(fd, text, len);
    close(fd);
    return done > 0 ? (size_t)done : 0;
}

int board_main(void)
{
    char session[GW_SESSION_MAX];
    const gw_event *ev;
    gw_config cfg = GW_INIT;
    cfg.token = getenv("DISCORD_TOKEN");
    cfg.intents = GW_INTENT_GUILDS | GW_INTENT_GUILD_VOICE_STATES;
    cfg.memory = board_memory.bytes;
    cfg.memory_bytes = sizeof board_memory.bytes;
    cfg.max_queued = 4;
    cfg.max_payload = 16 * 1024;                        /* larger ones come out as SKIPPED, the session lives on */
    cfg.unix_time_floor = board_build_time();           /* our clock starts in 1970 */
    cfg.session = session;
    cfg.session_len = board_file("/data/session", session, sizeof session, O_RDONLY);
    if (gw_memory_needed(&cfg) > sizeof board_memory.bytes)
        return fprintf(stderr, "needs %lu bytes\n", (unsigned long)gw_memory_needed(&cfg)), 2;
    board_gw = gw_open(&cfg);
    signal(SIGTERM, board_on_signal);

    while ((ev = gw_wait(board_gw, GW_FOREVER)) != NULL) {      /* NULL only when ended for good */
        if (ev->type == GW_VOICE_STATE_UPDATE) lamp(gw_kind_of(&ev->d, "channel_id") == GW_STRING);
        if (ev->type == GW_READY) gw_ack(board_gw, ev->shard, ev->session, ev->seq);     /* or the text would name the event before it */
        if (ev->type == GW_READY || ev->type == GW_CLOSED)
            board_file("/data/session", session, gw_session_save(board_gw, GW_ALL, session, sizeof session), O_WRONLY | O_CREAT | O_TRUNC);
        if (ev->type == GW_SKIPPED || ev->reason) fprintf(stderr, "%s %s\n", ev->name, ev->message);
        if (board_ends) gw_stop(board_gw, GW_KEEP);     /* back in a minute: the next start resumes */
    }
    gw_close(board_gw);
    return 0;
}
#endif

#if defined PROGRAM && PROGRAM == 1
int main(void) { return plugin_main(); }
#elif defined PROGRAM && PROGRAM == 2
int main(void) { return worker_main(16); }
#elif defined PROGRAM
int main(void) { return board_main(); }
#endif
