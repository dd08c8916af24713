/* The public calls as a caller may use and misuse them: stop and close in every state, no client, ended clients, calls
 * from inside hooks, the identify gate, loop integration, several shards. */
#define DISCORD_GATEWAY_IMPLEMENTATION
#include "discord_gateway.h"
#include "world.h"

static world w;

static void begin_live(const char *script)
{
    world_init(&w);
    world_begin(&w, script);
    WORLD_EXPECT(&w, GW_READY, 1000);
    world_settle(&w);
}

#define PRESENCE "{\"since\":null,\"activities\":[],\"status\":\"online\",\"afk\":false}"

static gw_ticket send_text(const char *d) { return gw_send_raw(w.gw, 0, 3, d, strlen(d)); }

static gw_ticket send_sounds(void)
{
    static const char d[] = "{\"guild_ids\":[]}";
    return gw_send_raw(w.gw, 0, 31, d, strlen(d));
}

/* ---- stop, close ---- */
TEST(stop_refuses_other_words_and_later_sends)
{
    begin_live(NULL);
    CHECK_EQ(gw_stop(w.gw, 0), GW_ERROR_ARGUMENT);
    CHECK_EQ(gw_stop(w.gw, 3), GW_ERROR_ARGUMENT);
    CHECK_EQ(gw_stop(w.gw, GW_KEEP), GW_OK);
    CHECK_EQ(gw_stop(w.gw, GW_END), GW_OK);         /* the first word stands */
    CHECK_EQ(send_text(PRESENCE), GW_ERROR_ENDED);
    WORLD_EXPECT(&w, GW_CLOSED, 5000);
    CHECK_U64(world_count(&w, WORLD_EV("close_received"), "\"code\":1000"), 0);
    CHECK_U64(world_count_events(&w, GW_CLOSED), 1);
    world_end(&w);
}

TEST(stop_ends_within_five_seconds_whatever_the_peer_does)
{
    uint32_t kind;
    for (kind = 0; kind < 4; kind++) {
        begin_live(NULL);
        w.any_violations = 1;
        if (kind == 0) w.mute = 1;
        if (kind == 1) w.write_full = 1;
        if (kind == 2) world_do(&w, "freeze");
        if (kind == 3) world_do(&w, "rate 2000");
        CHECK_EQ(gw_stop(w.gw, GW_END), GW_OK);
        WORLD_EXPECT(&w, GW_CLOSED, 5000);
        world_end(&w);
    }
}

TEST(stop_works_in_every_state)
{
    static const char *const scripts[] = { "on accept stall_http", "on accept no_hello", "on accept no_ready",
        "on accept http 503" };
    size_t i;
    uint32_t how;
    for (i = 0; i < sizeof scripts / sizeof scripts[0]; i++) {
        for (how = GW_KEEP; how <= GW_END; how++) {
            world_init(&w);
            world_begin(&w, scripts[i]);
            world_advance(&w, 300);
            CHECK_EQ(gw_stop(w.gw, how), GW_OK);
            WORLD_EXPECT(&w, GW_CLOSED, 5000);
            world_end(&w);
        }
    }
    world_init(&w);                                 /* before the first poll */
    world_begin(&w, NULL);
    CHECK_EQ(gw_stop(w.gw, GW_END), GW_OK);
    WORLD_EXPECT(&w, GW_CLOSED, 5000);
    CHECK_U64(w.opens, 0);
    world_end(&w);
    world_init(&w);                                 /* while it waits for a network */
    w.refuse = UINT32_MAX;
    world_begin(&w, NULL);
    world_advance(&w, 60000);
    CHECK_EQ(gw_stop(w.gw, GW_KEEP), GW_OK);
    WORLD_EXPECT(&w, GW_CLOSED, 5000);
    world_end(&w);
    world_init(&w);                                 /* while a Resume is unanswered */
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    world_script(&w, "on accept no_ready");
    world_do(&w, "cut");
    world_advance(&w, 1000);
    CHECK_EQ(gw_stop(w.gw, GW_KEEP), GW_OK);
    WORLD_EXPECT(&w, GW_CLOSED, 5000);
    world_end(&w);
    begin_live(NULL);                               /* held */
    gw_hold(w.gw, GW_ALL, 1);
    world_do(&w, "event MESSAGE_CREATE {}");
    world_settle(&w);
    CHECK_EQ(gw_stop(w.gw, GW_KEEP), GW_OK);
    WORLD_EXPECT(&w, GW_CLOSED, 5000);
    world_end(&w);
}

TEST(close_in_every_state_frees_all)
{
    static const char *const scripts[] = { NULL, "on accept stall_http", "on accept no_hello", "on accept no_ready",
        "on accept http 503", "on accept cut",
                                           "on ready +200 cut\non resume freeze", "on ready rate 3000",
                                               "on ready big 3000000" };
    size_t i;
    uint32_t polls;
    for (i = 0; i < sizeof scripts / sizeof scripts[0]; i++) {
        for (polls = 0; polls < 40; polls += 1) {
            uint32_t p;
            world_init(&w);
            w.any_violations = 1;
            world_begin(&w, scripts[i]);
            for (p = 0; p < polls; p++) {           /* stops in the middle of anything, events in hand and waiting */
                world_stream *stream;
                w.now_us += 40000;
                sim_tick(w.gateway, world_sim_ms(&w));
                for (stream = w.streams; stream; stream = stream->next) world_carry(stream);
                gw_poll(w.gw);
            }
            world_end(&w);
        }
    }
}

TEST(fatal_client_goes_on_to_closed_and_then_nothing)
{
    begin_live(NULL);
    world_do(&w, "close 4004 no");
    WORLD_EXPECT(&w, GW_FATAL, 100);
    WORLD_EXPECT(&w, GW_CLOSED, 5000);
    CHECK(gw_poll(w.gw) == NULL);
    CHECK(gw_wait(w.gw, GW_FOREVER) == NULL);
    CHECK(gw_wait(w.gw, 1000) == NULL);
    CHECK_EQ(gw_timeout_ms(w.gw), -1);
    world_end(&w);
}

/* ---- who calls what when ---- */
static void call_everything(gw_client *gw, int32_t expected)
{
    static const uint64_t ids[1] = { 5 };
    char out[700];
    gw_pollfd fds[4];
    gw_stats stats;
    gw_json absent;
    (void)ids; (void)absent;
    CHECK(gw_poll(gw) == NULL);
    CHECK(gw_wait(gw, 0) == NULL);
    CHECK(gw_wait(gw, GW_FOREVER) == NULL);
    gw_tend(gw);
    if (expected != GW_ERROR_IN_HOOK) CHECK_EQ(gw_alive(gw), 0);
    CHECK_EQ(gw_stop(gw, GW_END), expected);
    if (expected != GW_ERROR_IN_HOOK) CHECK_EQ(gw_shard_live(gw, GW_ALL), 0);
    gw_shard_of(gw, 5);
    CHECK_EQ(gw_hold(gw, GW_ALL, 1), expected);
    CHECK_EQ(gw_want(gw, GW_MESSAGE_CREATE, 0), expected);
    CHECK_EQ(gw_send_raw(gw, GW_ALL, 3, "{}", 2), expected);
    gw_fd(gw);
    gw_pollfds(gw, fds, 4);
    gw_pollfds(gw, NULL, 0);
    if (expected == GW_ERROR_IN_HOOK || expected == GW_ERROR_ENDED) CHECK_EQ(gw_timeout_ms(gw), -1);
    gw_recheck(gw);
    gw_session_save(gw, GW_ALL, out, sizeof out);
    gw_ack(gw, 0, 1, 1);
    gw_user_id(gw);
    gw_application_id(gw);
    gw_stats_read(gw, GW_ALL, &stats);
    gw_stats_read(gw, 7, &stats);
    gw_stats_read(gw, GW_ALL, NULL);
    CHECK(gw_why(gw) != NULL && gw_why(gw)[0] != 0);
    world_look_for_token(&w, gw_why(gw));
}

TEST(calls_with_no_client_do_nothing)
{
    world_init(&w);
    call_everything(NULL, GW_ERROR_ENDED);
    gw_wake(NULL);
    gw_close(NULL);
    CHECK_EQ(gw_shard_of(NULL, 5), 0);
    CHECK_U64(gw_user_id(NULL), 0);
    CHECK_U64(gw_pollfds(NULL, NULL, 0), 0);
    CHECK_EQ((int)gw_fd(NULL), -1);
    world_end(&w);
}

TEST(calls_after_closed_do_nothing)
{
    char out[700];
    begin_live(NULL);
    gw_stop(w.gw, GW_KEEP);
    WORLD_EXPECT(&w, GW_CLOSED, 5000);
    call_everything(w.gw, GW_ERROR_ENDED);
    gw_wake(w.gw);
    CHECK(gw_poll(w.gw) == NULL);
    CHECK(gw_session_save(w.gw, GW_ALL, out, sizeof out) > 50);
    world_end(&w);
}

static uint32_t hooked;
static char hooks_seen[400];

static void misuse(world *x, const char *hook)
{
    if (strstr(hooks_seen, hook) && hooked > 2000) return;      /* each hook often, but not for ever */
    if (!strstr(hooks_seen, hook)) { strcat(hooks_seen, hook); strcat(hooks_seen, " "); }
    hooked++;
    if (!x->gw) return;
    x->in_hook = NULL;                              /* ours again only when all is back */
    call_everything(x->gw, GW_ERROR_IN_HOOK);
    gw_close(x->gw);                                /* refused as well */
    gw_wake(x->gw);
    x->in_hook = misuse;
}

TEST(calls_from_inside_any_hook_are_refused_but_wake)
{
    static const char *const names[] = { "monotonic_us", "boot_us", "unix_time", "random", "alloc", "log", "open", "read",
        "write", "fd", "close" };
    size_t i;
    hooked = 0;
    hooks_seen[0] = 0;
    world_init(&w);
    w.sim.event_rate = 5;
    w.in_hook = misuse;
    world_begin(&w, NULL);
    for (i = 0; i < 200; i++) {                     /* gw_wake from hooks keeps it awake, so time is moved here */
        const gw_event *event;
        world_stream *stream;
        uint32_t most = 50;
        w.now_us += 100000;
        if (i == 100) world_do(&w, "cut");
        sim_tick(w.gateway, world_sim_ms(&w));
        for (stream = w.streams; stream; stream = stream->next) world_carry(stream);
        while (most-- && (event = gw_poll(w.gw)) != NULL) world_take(&w, event);
    }
    for (i = 0; i < sizeof names / sizeof names[0]; i++)
        if (!CHECK(strstr(hooks_seen, names[i]) != NULL)) fprintf(stderr, "    %s\n", names[i]);
    CHECK(hooked > 300);
    CHECK(world_count_events(&w, GW_WOKEN) > 0);
    CHECK(world_count_events(&w, GW_MESSAGE_CREATE) > 20);
    CHECK_U64(world_count_events(&w, GW_RESUMED), 1);
    w.in_hook = NULL;
    world_check_delivery(&w, 1);
    world_end(&w);
}

/* ---- the identify gate ---- */
static int32_t gate_answer;
static uint32_t gate_asked;

static int32_t on_gate(void *user, int32_t shard, uint32_t bucket)
{
    CHECK(user == &w);
    CHECK_EQ(shard, 0);
    CHECK_EQ(bucket, 0);
    gate_asked++;
    return gate_answer;
}

TEST(gate_hook_says_wait_then_go)
{
    const world_event *held;
    gate_answer = 3000;
    gate_asked = 0;
    world_init(&w);
    w.cfg.identify_gate = on_gate;
    world_begin(&w, NULL);
    held = WORLD_EXPECT(&w, GW_IDENTIFY_HELD, 100);
    CHECK_EQ(held->in_ms, 3000);
    world_advance(&w, 7000);
    CHECK_U64(gate_asked, 3);
    CHECK_U64(w.opens, 0);                          /* the permit is taken before connecting */
    gate_answer = 0;
    WORLD_EXPECT(&w, GW_READY, 3100);
    CHECK_U64(world_count_events(&w, GW_IDENTIFY_HELD), 1);
    world_end(&w);
}

TEST(gate_hook_is_asked_again_after_a_wake)
{
    gate_answer = 60000;
    gate_asked = 0;
    world_init(&w);
    w.cfg.identify_gate = on_gate;
    world_begin(&w, NULL);
    world_advance(&w, 1000);
    CHECK_U64(gate_asked, 1);
    gate_answer = 0;
    gw_wake(w.gw);
    WORLD_EXPECT(&w, GW_READY, 100);
    CHECK_U64(gate_asked, 2);
    world_end(&w);
}

TEST(gate_hook_says_never)
{
    const world_event *end;
    gate_answer = -1;
    world_init(&w);
    w.cfg.identify_gate = on_gate;
    world_begin(&w, NULL);
    end = WORLD_EXPECT(&w, GW_SHARD_STOPPED, 100);
    CHECK_HAS(end->message, "identify_gate");
    world_advance(&w, 100000);
    CHECK_U64(w.opens, 0);
    gw_stop(w.gw, GW_END);
    WORLD_EXPECT(&w, GW_CLOSED, 100);
    world_end(&w);
}

TEST(gate_hook_is_not_asked_for_a_resume)
{
    gate_answer = 0;
    gate_asked = 0;
    world_init(&w);
    w.cfg.identify_gate = on_gate;
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 100);
    gate_answer = -1;
    world_do(&w, "cut");
    WORLD_EXPECT(&w, GW_RESUMED, 100);
    CHECK_U64(gate_asked, 1);
    world_end(&w);
}

/* ---- loops ---- */
TEST(wake_comes_out_as_one_woken)
{
    uint32_t i;
    begin_live(NULL);
    for (i = 0; i < 10; i++) gw_wake(w.gw);
    world_settle(&w);
    CHECK_U64(world_count_events(&w, GW_WOKEN), 1);
    CHECK_EQ(world_last(&w, GW_WOKEN)->shard, GW_ALL);
    gw_wake(w.gw);
    world_settle(&w);
    CHECK_U64(world_count_events(&w, GW_WOKEN), 2);
    gw_wake(w.gw);
    CHECK(gw_wait(w.gw, GW_FOREVER) != NULL);       /* it does not sleep */
    world_end(&w);
}

TEST(timeout_names_the_next_deadline)
{
    int32_t timeout_ms;
    begin_live(NULL);
    timeout_ms = gw_timeout_ms(w.gw);
    CHECK(timeout_ms > 0 && timeout_ms <= 41250);
    w.now_us += (uint64_t)timeout_ms * 1000u;
    world_settle(&w);
    CHECK_U64(world_count(&w, WORLD_EV("heartbeat"), NULL), 1);         /* exactly then it was due */
    CHECK_EQ(gw_timeout_ms(w.gw), 41250);
    send_sounds();
    CHECK_EQ(gw_timeout_ms(w.gw), 0);
    world_settle(&w);
    CHECK(gw_timeout_ms(w.gw) > 0);
    world_end(&w);
}

TEST(timeout_is_zero_before_the_first_poll_and_while_events_wait)
{
    world_init(&w);
    world_begin(&w, NULL);
    CHECK_EQ(gw_timeout_ms(w.gw), 0);
    CHECK(gw_poll(w.gw) != NULL);
    CHECK_EQ(gw_timeout_ms(w.gw), 0);
    world_end(&w);
}

TEST(pollfds_lists_the_wake_descriptor)
{
    gw_pollfd fds[4];
    begin_live(NULL);
    CHECK_U64(gw_pollfds(w.gw, NULL, 0), 1);        /* the world's streams have no descriptors */
    CHECK_U64(gw_pollfds(w.gw, fds, 4), 1);
    CHECK(fds[0].fd >= 0);
    CHECK_EQ(fds[0].readable, 1);
    CHECK_EQ(fds[0].writable, 0);
    world_end(&w);
}

TEST(recheck_probes_what_is_open_and_finds_it_alive)
{
    size_t beats;
    begin_live(NULL);
    beats = world_count(&w, WORLD_EV("heartbeat"), NULL);
    gw_recheck(w.gw);
    gw_recheck(w.gw);
    world_advance(&w, 10000);
    CHECK_U64(world_count(&w, WORLD_EV("heartbeat"), NULL), beats + 1);
    CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 0);
    world_end(&w);
}

TEST(recheck_finds_a_dead_connection_within_seconds)
{
    const world_event *end;
    uint64_t at_ms;
    begin_live(NULL);
    world_do(&w, "freeze");
    at_ms = world_ms(&w);
    gw_recheck(w.gw);
    end = WORLD_EXPECT(&w, GW_DISCONNECTED, 6000);
    CHECK_EQ(end->reason, GW_REASON_NO_ACK);
    CHECK(end->at_ms <= at_ms + 5000);
    WORLD_EXPECT(&w, GW_RESUMED, 1000);
    world_end(&w);
}

TEST(recheck_skips_a_wait)
{
    uint64_t opens;
    begin_live(NULL);
    w.refuse = UINT32_MAX;
    w.any_violations = 1;
    world_do(&w, "cut");
    world_advance(&w, 400000);
    WORLD_EXPECT(&w, GW_DISCONNECTED, 70000);
    opens = w.opens;
    w.refuse = 0;
    gw_recheck(w.gw);
    world_settle(&w);
    CHECK(w.opens > opens);
    world_end(&w);
}

TEST(frames_of_a_game_serve_as_well_as_deadlines)
{
    world_init(&w);
    w.frame_ms = 16;
    w.sim.event_rate = 20;
    world_begin(&w, "on ready x1 +5000 cut");
    world_advance(&w, 60000);
    world_do(&w, "rate 0");
    world_advance(&w, 1000);
    CHECK_U64(world_count_events(&w, GW_RESUMED), 1);
    CHECK_U64(world_count_events(&w, GW_POLLED_LATE), 0);
    world_check_delivery(&w, 1);
    world_end(&w);
}

TEST(clock_that_stands_still_or_jumps_back_does_no_harm)
{
    uint32_t i;
    begin_live(NULL);
    w.any_violations = 1;
    for (i = 0; i < 100; i++) world_settle(&w);
    w.now_us -= 500000000;                          /* a broken clock hook */
    for (i = 0; i < 10; i++) gw_poll(w.gw);
    gw_timeout_ms(w.gw);
    gw_recheck(w.gw);
    send_sounds();
    w.now_us += 600000000;
    world_advance(&w, 200000);
    CHECK_EQ(gw_alive(w.gw), 1);
    world_end(&w);
}

static int32_t random_or_not(void *user, void *bytes, size_t len)
{
    return gate_answer ? -1 : world_on_random(user, bytes, len);
}

TEST(random_that_fails_sends_nothing_unmasked_and_recovers)
{
    gate_answer = 1;
    world_init(&w);
    w.cfg.random = random_or_not;
    world_begin(&w, NULL);
    world_advance(&w, 120000);
    CHECK_U64(world_count(&w, WORLD_EV("identify"), NULL), 0);
    gate_answer = 0;
    WORLD_EXPECT(&w, GW_READY, 130000);
    gate_answer = 1;
    world_advance(&w, 50000);
    world_do(&w, "op1");
    world_advance(&w, 100000);
    gate_answer = 0;
    world_advance(&w, 200000);
    CHECK_EQ(gw_shard_live(w.gw, 0), 1);
    CHECK_U64(world_count(&w, "mask_zero", NULL), 0);
    CHECK_U64(world_count(&w, "mask_reused", NULL), 0);
    w.any_violations = 1;
    world_end(&w);
}

/* ---- several shards ---- */
TEST(shards_two_in_one_client_each_with_its_own_session)
{
    uint64_t guild = UINT64_C(838860800000000000);
    gw_stats stats;
    world_init(&w);
    w.cfg.shard_count = w.cfg.shard_total = 2;
    w.sim.guilds = 6;
    w.sim.event_rate = 5;
    world_begin(&w, NULL);
    CHECK_EQ(WORLD_EXPECT(&w, GW_READY, 1000)->shard, 0);
    CHECK_EQ(gw_shard_live(w.gw, GW_ALL), 0);
    CHECK_EQ(WORLD_EXPECT(&w, GW_READY, 10000)->shard, 1);
    CHECK_EQ(gw_shard_live(w.gw, GW_ALL), 1);
    CHECK(world_time(&w, WORLD_EV("identify"), 1) >= world_time(&w, WORLD_EV("identify"), 0) + 5000);
    CHECK_U64(world_count(&w, WORLD_EV("identify"), "\"shard\":[1,2]"), 1);
    CHECK_EQ(gw_shard_of(w.gw, guild), (int)((guild >> 22) % 2));
    CHECK_EQ(gw_shard_of(w.gw, UINT64_MAX), 1);
    world_do(&w, "shard 0 op7");
    CHECK_EQ(WORLD_EXPECT(&w, GW_DISCONNECTED, 100)->shard, 0);
    CHECK_EQ(WORLD_EXPECT(&w, GW_RESUMED, 1000)->shard, 0);
    CHECK(gw_send_raw(w.gw, GW_ALL, 3, PRESENCE, strlen(PRESENCE)) > 0);
    world_settle(&w);
    CHECK_U64(world_count(&w, WORLD_EV("send"), NULL), 2);
    world_advance(&w, 100000);
    CHECK_EQ(gw_stats_read(w.gw, GW_ALL, &stats), GW_OK);
    CHECK_U64(stats.identifies, 2);
    CHECK_U64(stats.resumes, 1);
    CHECK_U64(stats.connects, 3);
    CHECK_EQ(gw_stats_read(w.gw, 1, &stats), GW_OK);
    CHECK_U64(stats.connects, 1);
    CHECK_EQ(gw_stats_read(w.gw, 2, &stats), GW_ERROR_NOT_OUR_SHARD);
    gw_stop(w.gw, GW_END);
    WORLD_EXPECT(&w, GW_CLOSED, 5000);
    CHECK_U64(world_count(&w, WORLD_EV("close_received"), "\"code\":1000"), 2);
    world_end(&w);
}

TEST(shards_of_a_range_have_their_own_ids)
{
    world_init(&w);
    w.cfg.shard_first = 2;
    w.cfg.shard_count = 2;
    w.cfg.shard_total = 4;
    w.cfg.max_concurrency = w.sim.max_concurrency = 4;
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    WORLD_EXPECT(&w, GW_READY, 1000);
    CHECK_U64(world_count(&w, WORLD_EV("identify"), "\"shard\":[2,4]"), 1);
    CHECK_U64(world_count(&w, WORLD_EV("identify"), "\"shard\":[3,4]"), 1);
    CHECK_EQ(gw_send_raw(w.gw, 0, 3, "{}", 2), GW_ERROR_NOT_OUR_SHARD);
    world_end(&w);
}

TEST(shards_a_flood_on_one_does_not_starve_the_other)
{
    uint32_t i, other = 0, beats;
    world_init(&w);
    w.cfg.shard_count = w.cfg.shard_total = 2;
    w.cfg.max_concurrency = w.sim.max_concurrency = 2;
    w.sim.interval_ms = 2000;
    w.sim.quiet_dispatch = 1;
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    WORLD_EXPECT(&w, GW_READY, 1000);
    world_settle(&w);
    world_script(&w, "every 100 shard 0 big 400000\nevery 50 shard 1 event MESSAGE_CREATE {}");
    for (i = 0; i < 600; i++) {
        const gw_event *event;
        world_stream *stream;
        w.now_us += 20000;
        sim_tick(w.gateway, world_sim_ms(&w));
        for (stream = w.streams; stream; stream = stream->next) world_carry(stream);
        while ((event = gw_poll(w.gw)) != NULL) {
            if (event->shard == 1 && event->type == GW_MESSAGE_CREATE) other++;
            if (event->type == GW_DISCONNECTED) { CHECK_TEXT(event->message, "no end"); i = 600; }
        }
    }
    beats = (uint32_t)world_count(&w, WORLD_EV("heartbeat"), NULL);
    CHECK(other > 150);
    CHECK(beats >= 10);
    world_end(&w);
}

CHECK_MAIN()
