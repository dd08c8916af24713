/* Sessions that outlive a process: saved as text, loaded by another client; what counts as taken; texts that are cut or
 * of another bot; the identify count that travels along. */
#define DISCORD_GATEWAY_IMPLEMENTATION
#include "discord_gateway.h"
#include "world.h"

static world w;
static char text[4096];
static size_t text_len;

static void begin_live(const char *script)
{
    world_init(&w);
    world_begin(&w, script);
    WORLD_EXPECT(&w, GW_READY, 1000);
    world_settle(&w);
}

static void save(void)
{
    text_len = gw_session_save(w.gw, GW_ALL, text, sizeof text);
    CHECK(text_len > 0 && text_len < sizeof text);
    CHECK_U64(text_len, strlen(text));
    world_look_for_token(&w, text);
}

/* Ends the client as a crash would, and starts the next one with the saved text. */
static void restart(void)
{
    world_close_client(&w);
    w.cursor = w.event_count;
    w.cfg.session = text;
    w.cfg.session_len = text_len;
    world_open_client(&w);
}

TEST(sessions_saved_one_is_resumed_by_the_next_client)
{
    begin_live(NULL);
    save();
    CHECK(text_len <= GW_SESSION_MAX);
    restart();
    WORLD_EXPECT(&w, GW_RESUMED, 1000);
    CHECK_U64(world_count(&w, WORLD_EV("identify"), NULL), 1);
    CHECK_U64(gw_user_id(w.gw), UINT64_C(1098765432109876543));         /* no READY came, and yet */
    CHECK_U64(gw_application_id(w.gw), UINT64_C(1098765432109876544));
    CHECK_EQ(world_last(&w, GW_RESUMED)->session, 1);                   /* (shard, session, seq) still names an event */
    CHECK_HAS(world_last(&w, GW_CONNECTING)->message, "ws://127.0.0.1:8080/resume");
    world_end(&w);
}

/* What the saved text names: the seq of shard 0's line. */
static uint64_t saved_seq(void)
{
    const char *line;
    save();
    line = strchr(text, '\n');
    return line ? strtoull(line + strlen("\n0 0 1 "), NULL, 10) : 0;
}

static void bring(const char *command)
{
    world_stream *stream;
    world_do(&w, command);
    sim_tick(w.gateway, world_sim_ms(&w));
    for (stream = w.streams; stream; stream = stream->next) world_carry(stream);
}

/* A crash between reading and telling must tell of it again. */
TEST(sessions_text_names_a_skipped_payload_once_it_was_told_and_not_before)
{
    const gw_event *event = NULL;
    uint64_t seq;
    int i;
    world_init(&w);
    w.cfg.max_payload = 4000;
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    world_settle(&w);
    seq = saved_seq();
    CHECK_EQ(gw_want(w.gw, GW_TYPING_START, 0), GW_OK);
    bring("event MESSAGE_CREATE {}");
    for (i = 0; i < 100 && !(event && event->type == GW_MESSAGE_CREATE); i++) event = gw_poll(w.gw);
    if (!CHECK(event != NULL)) return;
    bring("big 9000");
    bring("event TYPING_START {}");
    for (i = 0; i < 100; i++) gw_tend(w.gw);        /* both are read while the message is in hand */
    CHECK_U64(saved_seq(), seq);
    event = gw_poll(w.gw);
    if (CHECK(event != NULL)) CHECK_EQ(event->type, GW_SKIPPED);
    CHECK_U64(saved_seq(), seq + 1);                /* the message was taken, SKIPPED is in hand */
    CHECK(gw_poll(w.gw) == NULL);
    CHECK_U64(saved_seq(), seq + 2);
    bring("event TYPING_START {}");
    for (i = 0; i < 100 && !gw_poll(w.gw); i++) { }
    CHECK_U64(saved_seq(), seq + 4);                /* what was filtered counts from here on */
    world_end(&w);
}

TEST(sessions_close_without_stop_keeps_the_session)
{
    begin_live(NULL);
    world_close_client(&w);
    CHECK_U64(world_count(&w, WORLD_EV("session_end"), NULL), 0);
    CHECK_U64(world_count(&w, WORLD_EV("close_received"), "\"code\":1000"), 0);
    CHECK_U64(world_count(&w, WORLD_EV("close_received"), "\"code\":4000"), 1);
    world_end(&w);
}

TEST(sessions_stop_keep_sends_4000_and_stop_end_1000)
{
    uint32_t how;
    for (how = GW_KEEP; how <= GW_END; how++) {
        begin_live(NULL);
        CHECK_EQ(gw_stop(w.gw, how), GW_OK);
        WORLD_EXPECT(&w, GW_CLOSED, 5000);
        CHECK_EQ(gw_alive(w.gw), 0);
        CHECK_U64(world_count(&w, WORLD_EV("close_received"), how == GW_END ? "\"code\":1000" : "\"code\":4000"), 1);
        CHECK_U64(world_count(&w, WORLD_EV("session_end"), NULL), how == GW_END);
        CHECK_EQ(world_last(&w, GW_DISCONNECTED)->reason, GW_REASON_BY_CALLER);
        CHECK_EQ(world_last(&w, GW_DISCONNECTED)->will, GW_NEXT_NOTHING);
        save();                                     /* works after CLOSED too */
        w.now_us += 6000000;
        restart();
        if (how == GW_KEEP) WORLD_EXPECT(&w, GW_RESUMED, 1000);
        else WORLD_EXPECT(&w, GW_READY, 10000);
        world_end(&w);
    }
}

TEST(sessions_text_names_the_event_before_the_one_in_hand)
{
    const gw_event *event;
    char *at;
    begin_live(NULL);
    world_do(&w, "event MESSAGE_CREATE {\"n\":4}");
    world_do(&w, "event MESSAGE_CREATE {\"n\":5}");
    world_carry(w.streams);
    event = gw_poll(w.gw);
    if (CHECK(event != NULL)) CHECK_U64(event->seq, 4);
    save();
    at = strchr(text, '\n');
    if (CHECK(at != NULL)) CHECK_BYTES(at + 1, 8, "0 0 1 3 ", 8);
    event = gw_poll(w.gw);                          /* 4 counts as taken from here on */
    if (CHECK(event != NULL)) CHECK_U64(event->seq, 5);
    save();
    at = strchr(text, '\n');
    if (CHECK(at != NULL)) CHECK_BYTES(at + 1, 8, "0 0 1 4 ", 8);
    restart();
    CHECK_U64(WORLD_EXPECT(&w, GW_MESSAGE_CREATE, 1000)->seq, 5);       /* at least once: it comes again */
    CHECK_EQ(world_last(&w, GW_MESSAGE_CREATE)->replayed, 1);
    world_end(&w);
}

TEST(sessions_crash_between_receipt_and_handling_loses_nothing)
{
    uint32_t round;
    uint8_t seen[2000];
    size_t i;
    uint64_t top = 0, s;
    memset(seen, 0, sizeof seen);
    world_init(&w);
    w.sim.event_rate = 40;
    w.sim.session_ttl_ms = 100000000;
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    for (round = 0; round < 20; round++) {
        uint32_t few = 3 + round;
        const gw_event *event;
        world_advance(&w, 500 + round * 37);
        w.now_us += 300000;
        sim_tick(w.gateway, world_sim_ms(&w));
        if (w.streams) world_carry(w.streams);
        while (few-- && (event = gw_poll(w.gw)) != NULL) world_take(&w, event);
        save();
        if (round % 3 == 0) { if (gw_poll(w.gw)) { /* received, and dead before it was handled */ } }
        restart();
        world_advance(&w, 1500);
    }
    world_do(&w, "rate 0");
    world_advance(&w, 3000);
    CHECK_U64(world_count(&w, WORLD_EV("identify"), NULL), 1);
    for (i = 0; i < w.event_count; i++) {
        const world_event *e = &w.events[i];
        if (e->type >= GW_GATEWAY_INFO || e->seq >= sizeof seen) continue;
        seen[e->seq] = 1;
        if (e->seq > top) top = e->seq;
    }
    CHECK(top > 500);
    for (s = 1; s <= top; s++) {
        char line[300], mark[40];
        if (seen[s]) continue;
        snprintf(mark, sizeof mark, "\"s\":%u,\"t\":\"RESUMED\"", (unsigned)s);      /* of a connection that was gone */
        if (!CHECK(world_line(&w, WORLD_EV("dispatch"), mark, 0, line, sizeof line))) fprintf(stderr,
            "    seq %u is lost\n", (unsigned)s);
    }
    world_end(&w);
}

TEST(sessions_ack_by_hand_names_what_was_acknowledged)
{
    world_init(&w);
    w.cfg.ack_by_hand = 1;
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    world_do(&w, "event MESSAGE_CREATE {}");
    world_do(&w, "event MESSAGE_CREATE {}");
    world_settle(&w);
    save();
    CHECK(strstr(text, "\n0 0 1 ") == NULL);        /* nothing acknowledged yet: nothing to resume from */
    CHECK_EQ(gw_ack(w.gw, 0, 1, 4), GW_OK);
    CHECK_EQ(gw_ack(w.gw, 0, 1, 2), GW_OK);         /* it never goes back */
    save();
    CHECK_HAS(text, "\n0 0 1 4 ");
    CHECK_EQ(gw_ack(w.gw, 0, 1, 99), GW_ERROR_ARGUMENT);
    CHECK_EQ(gw_ack(w.gw, 0, 7, 5), GW_OK);         /* of a session that is gone */
    CHECK_EQ(gw_ack(w.gw, 3, 1, 5), GW_ERROR_NOT_OUR_SHARD);
    save();
    CHECK_HAS(text, "\n0 0 1 4 ");
    restart();
    CHECK_U64(WORLD_EXPECT(&w, GW_MESSAGE_CREATE, 1000)->seq, 5);
    world_end(&w);
}

TEST(sessions_ack_by_hand_does_not_change_what_an_own_resume_says)
{
    world_init(&w);
    w.cfg.ack_by_hand = 1;
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    world_settle(&w);
    world_do(&w, "cut");
    WORLD_EXPECT(&w, GW_RESUMED, 1000);
    CHECK_U64(world_number(&w, WORLD_EV("resume"), 0, "seq"), 3);
    world_end(&w);
}

TEST(sessions_ack_of_the_event_in_hand_counts)
{
    const gw_event *event;
    begin_live(NULL);
    world_do(&w, "event MESSAGE_CREATE {}");
    world_carry(w.streams);
    event = gw_poll(w.gw);
    if (!CHECK(event != NULL)) { world_end(&w); return; }
    CHECK_EQ(gw_ack(w.gw, event->shard, event->session, event->seq), GW_OK);
    save();
    CHECK_HAS(text, "\n0 0 1 4 ");
    world_end(&w);
}

TEST(sessions_filtered_and_skipped_events_count_as_taken)
{
    world_init(&w);
    w.cfg.max_payload = 8192;
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    gw_want(w.gw, GW_TYPING_START, 0);
    world_settle(&w);
    world_do(&w, "event TYPING_START {}");
    world_do(&w, "big 50000");
    world_settle(&w);
    save();
    CHECK_HAS(text, "\n0 0 1 5 ");
    world_end(&w);
}

/* ---- texts that are no good ---- */
TEST(sessions_text_cut_at_any_byte_is_refused_and_identified_anew)
{
    char whole[4096];
    size_t whole_len, cut;
    begin_live(NULL);
    save();
    memcpy(whole, text, sizeof whole);
    whole_len = text_len;
    w.any_violations = 1;
    world_end(&w);
    for (cut = 1; cut < whole_len; cut += world_is_slow() ? 7 : 1) {
        int failures = check_failures;
        world_init(&w);
        w.cfg.session = whole;
        w.cfg.session_len = cut;
        world_begin(&w, NULL);
        CHECK_EQ(WORLD_EXPECT(&w, GW_SESSION_LOST, 1000)->shard, GW_ALL);
        CHECK_HAS(world_last(&w, GW_SESSION_LOST)->message, "session text");
        WORLD_EXPECT(&w, GW_READY, 10000);
        CHECK_U64(world_count(&w, WORLD_EV("resume"), NULL), 0);
        world_end(&w);
        if (check_failures != failures) { fprintf(stderr, "    cut at %u of %u\n", (unsigned)cut,
            (unsigned)whole_len); break; }
    }
}

TEST(sessions_text_with_a_changed_byte_harms_nothing)
{
    char whole[4096];
    size_t whole_len, at;
    begin_live(NULL);
    save();
    memcpy(whole, text, sizeof whole);
    whole_len = text_len;
    world_end(&w);
    for (at = 0; at < whole_len; at += world_is_slow() ? 7 : 1) {
        char changed[4096];
        memcpy(changed, whole, sizeof changed);
        changed[at] = (char)(changed[at] ^ (at % 3 ? 0x01 : 0x80));
        world_init(&w);
        w.cfg.session = changed;
        w.cfg.session_len = whole_len;
        world_begin(&w, NULL);
        WORLD_EXPECT(&w, GW_SESSION_LOST, 1000);
        WORLD_EXPECT(&w, GW_READY, 10000);
        world_end(&w);
    }
}

static void begin_with(const char *session)
{
    world_init(&w);
    w.cfg.session = session;
    w.cfg.session_len = strlen(session);
    world_begin(&w, NULL);
}

/* A text with a right seal, whatever its lines say. */
static const char *sealed(const char *lines)
{
    br_hmac_context seal;
    char end[GW__END_LEN + 1];
    gw__seal_begin(&seal, WORLD_TOKEN);
    br_hmac_update(&seal, lines, strlen(lines));
    gw__seal_end(&seal, end);
    snprintf(text, sizeof text, "%s%s", lines, end);
    return text;
}

#define NO_HOURS "00000000000000000000000000000000000000000000000000"

TEST(sessions_text_with_nonsense_lines_and_a_right_seal_is_refused)
{
    static const char *const nonsense[] = { "", "gw1\n", "gw1 00000000 1 2 3 4 " NO_HOURS " -\n", "gw2 1 2 3 4 " NO_HOURS " -\n",
        "gw1 1 2 3 4 " NO_HOURS "\n",
        "gw1 1 2 3 4 " NO_HOURS " - more\n", "gw1 x 2 3 4 " NO_HOURS " -\n", "gw1 1 2 3 4 000 -\n", "gw1 1 2 3 4 " NO_HOURS "00 -\n", "gw1 1 2 3 99999999999999999999999 " NO_HOURS " -\n",
            "gw1 1 2 3 4 " NO_HOURS " http://a.b\n",
        "gw1 1 2 3 4 " NO_HOURS " ws://evil.example/\n", "gw1 1 2 3 4 " NO_HOURS " -", "gw1 1 2 3 4 " NO_HOURS " -\n0 0 1 3\n",
            "gw1 1 2 3 4 " NO_HOURS " -\n0 0 1 -3 abc -\n",
        "gw1 1 2 3 4 " NO_HOURS " -\n0 8 1 3 abc -\n", "gw1 1 2 3 4 " NO_HOURS " -\n0 0 1 3 abc ws://evil.example/\n",
            "gw1 1 2 3 4 " NO_HOURS " -\n4294967296 0 1 3 abc -\n",
        "gw1 1 2 3 4 " NO_HOURS " -\n0 0 4294967296 3 abc -\n", "\n\n\n" };
    size_t i;
    char lines[1000], long_id[600];
    for (i = 0; i < sizeof nonsense / sizeof nonsense[0]; i++) {
        int failures = check_failures;
        snprintf(lines, sizeof lines, "%s", nonsense[i]);
        begin_with(sealed(lines));
        WORLD_EXPECT(&w, GW_SESSION_LOST, 1000);
        WORLD_EXPECT(&w, GW_READY, 10000);
        world_end(&w);
        if (check_failures != failures) fprintf(stderr, "    %s\n", lines);
    }
    memset(long_id, 'a', sizeof long_id);
    long_id[150] = 0;
    snprintf(lines, sizeof lines, "gw1 1 2 3 4 " NO_HOURS " -\n0 0 1 3 %s -\n", long_id);
    begin_with(sealed(lines));
    WORLD_EXPECT(&w, GW_SESSION_LOST, 1000);
    WORLD_EXPECT(&w, GW_READY, 10000);
    world_end(&w);
}

TEST(sessions_half_a_text_leaves_no_half_a_session)
{
    char lines[1000];
    snprintf(lines, sizeof lines, "gw1 7 8 0 0 " NO_HOURS " -\n0 0 1 3 abcdef -\nbroken\n");
    begin_with(sealed(lines));
    WORLD_EXPECT(&w, GW_SESSION_LOST, 1000);
    WORLD_EXPECT(&w, GW_READY, 10000);
    CHECK_U64(world_count(&w, WORLD_EV("resume"), NULL), 0);            /* SESSION_LOST was said: then it is not used */
    world_end(&w);
}

TEST(sessions_saved_resume_url_of_a_foreign_host_is_not_used)
{
    char lines[1000];
    snprintf(lines, sizeof lines, "gw1 7 8 0 0 " NO_HOURS " -\n0 0 1 3 abcdef wss://evil.example/\n");
    begin_with(sealed(lines));
    world_advance(&w, 100000);
    {
        size_t i;
        for (i = 0; i < w.event_count; i++)
            if (w.events[i].type == GW_CONNECTING) CHECK(strstr(w.events[i].message, "evil") == NULL);
    }
    w.any_violations = 1;
    world_end(&w);
}

TEST(sessions_text_of_another_bot_is_refused)
{
    begin_live(NULL);
    save();
    world_end(&w);
    world_init(&w);
    w.cfg.token = "another.thisTokenMustNeverBeSeen.token";
    w.sim.token = NULL;
    w.cfg.session = text;
    w.cfg.session_len = text_len;
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_SESSION_LOST, 1000);
    WORLD_EXPECT(&w, GW_READY, 10000);
    world_end(&w);
}

TEST(sessions_text_of_another_shard_count_is_refused)
{
    begin_live(NULL);
    save();
    world_end(&w);
    world_init(&w);
    w.cfg.shard_count = w.cfg.shard_total = 1;
    w.cfg.session = text;
    w.cfg.session_len = text_len;
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_SESSION_LOST, 1000);
    WORLD_EXPECT(&w, GW_READY, 10000);
    world_end(&w);
}

/* ---- what save answers ---- */
TEST(sessions_save_answers_the_full_length_into_any_buffer)
{
    char small[64];
    size_t cap;
    begin_live(NULL);
    save();
    for (cap = 0; cap <= sizeof small; cap++) {
        memset(small, 'x', sizeof small);
        CHECK_U64(gw_session_save(w.gw, GW_ALL, cap ? small : NULL, cap), text_len);
        if (cap) CHECK_U64(strlen(small), cap - 1);
        if (cap < sizeof small) CHECK_EQ(small[cap], 'x');
        if (cap) CHECK(memcmp(small, text, cap - 1) == 0);
    }
    CHECK_U64(gw_session_save(NULL, GW_ALL, small, sizeof small), 0);
    CHECK_TEXT(small, "");
    world_end(&w);
}

TEST(sessions_save_before_ready_has_no_session_and_loads_all_the_same)
{
    world_init(&w);
    world_begin(&w, "on accept no_ready");
    world_advance(&w, 1000);
    save();
    CHECK(strstr(text, "\n0 ") == NULL);
    world_end(&w);
    begin_with(text);
    WORLD_EXPECT(&w, GW_READY, 10000);
    CHECK_U64(world_count_events(&w, GW_SESSION_LOST), 0);
    world_end(&w);
}

TEST(sessions_text_of_both_shards_resumes_both)
{
    world_init(&w);
    w.cfg.shard_count = w.cfg.shard_total = 2;
    w.cfg.max_concurrency = w.sim.max_concurrency = 2;
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    WORLD_EXPECT(&w, GW_READY, 1000);
    world_settle(&w);
    save();
    CHECK(text_len <= 2 * GW_SESSION_MAX);
    restart();
    WORLD_EXPECT(&w, GW_RESUMED, 1000);
    WORLD_EXPECT(&w, GW_RESUMED, 1000);
    CHECK_U64(sim_get_stats(w.gateway)->identifies, 2);
    text_len = gw_session_save(w.gw, 1, text, sizeof text);             /* one of them moves elsewhere */
    CHECK_HAS(text, "\n1 2 1 ");
    CHECK(strstr(text, "\n0 2 ") == NULL);
    world_end(&w);
}

/* ---- the identify count ---- */
TEST(sessions_crash_loop_meets_a_refusal_and_not_a_token_reset)
{
    uint32_t i;
    world_init(&w);
    world_begin(&w, "on identify close 4000 no");
    for (i = 0; i < 20; i++) {
        world_advance(&w, 10000);
        save();
        restart();
        world_advance(&w, 100);
    }
    {
        uint64_t identifies = sim_get_stats(w.gateway)->identifies;
        gw_stats stats;
        gw_stats_read(w.gw, GW_ALL, &stats);
        CHECK(identifies >= 10);
        CHECK_U64(stats.identifies_left, 1000 - identifies);            /* counted over all lives */
    }
    world_end(&w);
}

TEST(sessions_restart_right_after_an_identify_waits_for_the_bucket)
{
    world_init(&w);
    world_begin(&w, "next 1 no_ready");
    world_advance(&w, 100);
    save();
    restart();
    WORLD_EXPECT(&w, GW_READY, 10000);
    CHECK(world_time(&w, WORLD_EV("identify"), 1) >= world_time(&w, WORLD_EV("identify"), 0) + 5000);
    world_end(&w);
}

TEST(sessions_count_of_yesterday_is_forgotten)
{
    gw_stats stats;
    world_init(&w);
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    save();
    world_close_client(&w);
    w.now_us += UINT64_C(90000000000);              /* 25 h */
    w.cfg.session = text;
    w.cfg.session_len = text_len;
    world_open_client(&w);
    gw_stats_read(w.gw, GW_ALL, &stats);
    CHECK_U64(stats.identifies_left, 1000);
    world_end(&w);
}

CHECK_MAIN()
