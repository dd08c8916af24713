/* The life of many shards in one client: one text for all of them, sleep, stalls and holds, a flood
 * that starves nobody, fixed memory. How they come and go is in test_shards.c. */
#define DISCORD_GATEWAY_IMPLEMENTATION
#define GW_API_URL "http://127.0.0.1:9"     /* the world's gateway answers /gateway/bot, too */
#include "discord_gateway.h"
#include "shards.h"

/* ---- sessions of many ---- */
TEST(shards_sixty_four_travel_in_one_text_and_each_alone)
{
    enum { MANY = 64 };
    char alone[GW_SESSION_MAX];
    uint32_t resumed[MANY];
    int32_t id;
    size_t i;
    memset(resumed, 0, sizeof resumed);
    init_shards(MANY, MANY);
    world_begin(&w, NULL);
    world_advance(&w, 1000);
    CHECK_U64(world_count_events(&w, GW_READY), MANY);
    save(GW_ALL);
    CHECK(text_len < (size_t)MANY * GW_SESSION_MAX);
    for (id = 0; id < MANY; id++) CHECK(text_has(id, MANY));
    for (id = 0; id < MANY; id++) {
        size_t len = gw_session_save(w.gw, id, alone, sizeof alone);
        char mark[32];
        CHECK(len < sizeof alone);
        snprintf(mark, sizeof mark, "\n%d %d 1 ", (int)id, (int)MANY);
        CHECK_HAS(alone, mark);
        world_look_for_token(&w, alone);
    }
    world_close_client(&w);
    world_do(&w, "event MESSAGE_CREATE {}");        /* nobody is there */
    w.cfg.session = text;
    w.cfg.session_len = text_len;
    world_free_events(&w);
    world_open_client(&w);
    world_advance(&w, 1000);                        /* no permit is needed: all at once */
    for (i = 0; i < w.event_count; i++)
        if (w.events[i].type == GW_RESUMED) resumed[w.events[i].shard]++;
    for (id = 0; id < MANY; id++) CHECK_U64(resumed[id], 1);
    for (id = 0; id < MANY; id++) {  /* now each of them moves to another worker, and back */
        size_t len = gw_session_save(w.gw, id, alone, sizeof alone);
        CHECK_EQ(gw_shard_stop(w.gw, id, GW_KEEP), GW_OK);
        CHECK_EQ(gw_shard_start(w.gw, id, alone, len), GW_OK);
    }
    world_advance(&w, 1000);
    CHECK_U64(world_count_events(&w, GW_RESUMED), 2 * MANY);
    CHECK_U64(identifies(), MANY);
    CHECK_EQ(gw_shard_live(w.gw, GW_ALL), 1);
    world_end(&w);
}

TEST(shards_text_of_half_of_them_resumes_these_and_identifies_the_rest)
{
    begin_live(4);
    CHECK_EQ(gw_shard_stop(w.gw, 1, GW_END), GW_OK);
    CHECK_EQ(gw_shard_stop(w.gw, 3, GW_END), GW_OK);
    save(GW_ALL);
    world_advance(&w, 10000);
    restart();
    expect_each(GW_RESUMED, 2);
    CHECK_U64(world_count_events(&w, GW_SESSION_LOST), 0);
    world_advance(&w, 1000);
    CHECK_EQ(gw_shard_live(w.gw, GW_ALL), 1);
    CHECK_U64(identifies_of(0, 4) + identifies_of(2, 4), 2);
    CHECK_U64(identifies_of(1, 4) + identifies_of(3, 4), 4);
    world_end(&w);
}

TEST(shards_ids_of_the_bot_are_known_after_resumes_alone)
{
    begin_live(3);
    save(2);
    restart();                                      /* of one shard only: the others identify */
    CHECK_U64(gw_user_id(w.gw), UINT64_C(1098765432109876543));
    CHECK_U64(gw_application_id(w.gw), UINT64_C(1098765432109876544));
    world_close_client(&w);
    w.cfg.session = NULL;
    w.cfg.session_len = 0;
    w.cfg.shard_count = 0;  /* ... and by hand, from the text of one shard */
    world_open_client(&w);
    CHECK_U64(gw_user_id(w.gw), 0);
    CHECK_EQ(gw_shard_start(w.gw, 2, text, text_len), GW_OK);
    w.cursor = w.event_count;
    WORLD_EXPECT(&w, GW_RESUMED, 1000);
    CHECK_U64(gw_user_id(w.gw), UINT64_C(1098765432109876543));
    CHECK_U64(gw_application_id(w.gw), UINT64_C(1098765432109876544));
    world_end(&w);
}

TEST(shards_acknowledged_by_hand_are_each_named_by_their_own)
{
    size_t i;
    uint32_t again[3];
    init_shards(3, 3);
    w.cfg.ack_by_hand = 1;
    world_begin(&w, NULL);
    expect_each(GW_READY, 3);
    for (i = 0; i < 4; i++) world_do(&w, "event MESSAGE_CREATE {}");
    world_settle(&w);
    CHECK_EQ(gw_ack(w.gw, 0, 1, 1), GW_OK);
    CHECK_EQ(gw_ack(w.gw, 2, 1, world_last(&w, GW_MESSAGE_CREATE)->seq), GW_OK);
    CHECK_EQ(gw_ack(w.gw, 3, 1, 2), GW_ERROR_NOT_OUR_SHARD);
    CHECK_EQ(gw_ack(w.gw, GW_ALL, 1, 2), GW_ERROR_NOT_OUR_SHARD);
    save(GW_ALL);
    CHECK(text_has(0, 3) && !text_has(1, 3) && text_has(2, 3));
    CHECK_HAS(text, "\n0 3 1 1 ");
    CHECK_EQ(gw_shard_stop(w.gw, 0, GW_KEEP), GW_OK);  /* a stop acknowledges nothing */
    save(GW_ALL);
    CHECK_HAS(text, "\n0 3 1 1 ");
    world_advance(&w, 6000);
    world_free_events(&w);
    restart();
    world_advance(&w, 10000);
    memset(again, 0, sizeof again);
    for (i = 0; i < w.event_count; i++)
        if (w.events[i].type == GW_MESSAGE_CREATE) again[w.events[i].shard]++;
    CHECK_U64(again[0], 4);                         /* all that came after its READY */
    CHECK_U64(again[1], 0);                         /* a new session: it acknowledged nothing */
    CHECK_U64(again[2], 0);
    CHECK_U64(identifies_of(1, 3), 2);
    CHECK_U64(identifies(), 4);
    world_end(&w);
}

/* ---- sleep, stalls, holds ---- */
static void check_each_once(uint32_t type, int32_t count)
{
    int32_t id;
    for (id = 0; id < count; id++)
        if (!CHECK_U64(count_of(type, id), 1)) {
            fprintf(stderr, "    %s of shard %d\n", gw_name_of(type), (int)id);
            return;
        }
}

static void suspend(int32_t total)
{
    size_t i;
    init_shards(total, total);
    w.sim.session_ttl_ms = w.sim.heartbeat_grace_ms = 100000000;     /* nobody told us: half-open */
    w.sim.quiet_dispatch = 1;
    world_begin(&w, NULL);
    world_advance(&w, 1000);
    CHECK_U64(world_count_events(&w, GW_READY), (uint64_t)total);
    world_free_events(&w);
    w.slept_us += UINT64_C(18000000000);            /* 5 h */
    world_advance(&w, 1000);
    for (i = 0; i < w.event_count; i++)
        if (w.events[i].type == GW_DISCONNECTED) {
            CHECK_EQ(w.events[i].reason, GW_REASON_SLEPT);
            CHECK_EQ(w.events[i].will, GW_NEXT_RESUME);
            CHECK_HAS(w.events[i].message, "slept for 18000 s");
        }
    check_each_once(GW_DISCONNECTED, total);
    check_each_once(GW_CONNECTING, total);
    check_each_once(GW_RESUMED, total);
    CHECK_U64(identifies(), (uint64_t)total);
    CHECK_EQ(gw_shard_live(w.gw, GW_ALL), 1);
    world_end(&w);
}

TEST(shards_that_slept_all_resume_at_once_and_once) { suspend(4); }

/* More of them than there is room for notices in one go. */
TEST(shards_that_slept_all_resume_at_once_and_once_however_many) { suspend(64); }

TEST(shards_of_a_caller_a_minute_late_lose_nothing)
{
    size_t i;
    int32_t id;
    init_shards(4, 4);
    w.sim.event_rate = 5;
    world_begin(&w, NULL);
    expect_each(GW_READY, 4);
    world_advance(&w, 30000);
    world_free_events(&w);
    world_stall(&w, 60000);
    world_do(&w, "rate 0");
    world_advance(&w, 10000);
    for (id = 0; id < 4; id++)  /* each tells it, or the gateway gave up before */
        CHECK(count_of(GW_POLLED_LATE, id) + count_of(GW_DISCONNECTED, id) >= 1);
    for (i = 0; i < w.event_count; i++)
        if (w.events[i].type == GW_POLLED_LATE)
            CHECK(w.events[i].in_ms > 1000 && w.events[i].in_ms <= 60000);
    CHECK_EQ(gw_shard_live(w.gw, GW_ALL), 1);
    CHECK_U64(world_count_events(&w, GW_SESSION_LOST), 0);
    CHECK_U64(identifies(), 4);
    world_advance(&w, 60000);
    for (id = 0; id < 4; id++) {                    /* what came to each is without a gap */
        uint64_t last = 0;
        for (i = 0; i < w.event_count; i++) {
            const world_event *e = &w.events[i];
            if (e->shard != id || e->type >= GW_GATEWAY_INFO || e->type == GW_RESUMED) continue;
            if (last) CHECK(e->seq == last + 1 || (e->seq == last + 2 && count_of(GW_RESUMED, id)));
            last = e->seq;
        }
        CHECK(last > 300);
    }
    w.any_violations = 1;                           /* missed beats are what this is about */
    world_end(&w);
}

TEST(shards_held_one_hands_out_nothing_and_the_others_go_on)
{
    uint32_t i;
    begin_live(3);
    CHECK_EQ(gw_hold(w.gw, 3, 1), GW_ERROR_ARGUMENT);
    CHECK_EQ(gw_hold(w.gw, 1, 1), GW_OK);
    for (i = 0; i < 10; i++) {
        world_do(&w, "event MESSAGE_CREATE {}");
        world_advance(&w, 30000);
    }
    CHECK_U64(count_of(GW_MESSAGE_CREATE, 1), 0);
    CHECK_U64(count_of(GW_MESSAGE_CREATE, 0), 10);
    CHECK_U64(count_of(GW_MESSAGE_CREATE, 2), 10);
    CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 0);              /* its beats go on */
    CHECK_EQ(gw_hold(w.gw, 1, 0), GW_OK);
    world_settle(&w);
    CHECK_U64(count_of(GW_MESSAGE_CREATE, 1), 10);
    world_end(&w);
}

TEST(shards_held_event_is_asked_for_again_by_the_resume)
{
    static const char *const ends[] = { "shard 1 cut", "shard 1 op7", "shard 1 reset" };
    size_t i, k;
    for (i = 0; i < COUNT(ends); i++) {
        uint64_t last = 0;
        begin_live(2);
        world_do(&w, "shard 1 event MESSAGE_CREATE {\"n\":1}");
        world_do(&w, "shard 1 event MESSAGE_CREATE {\"n\":2}");
        carry_all();
        CHECK(gw_poll(w.gw) != NULL);               /* the first; the second comes in meanwhile */
        gw_tend(w.gw);
        CHECK_EQ(gw_hold(w.gw, 1, 1), GW_OK);
        world_do(&w, "shard 1 event MESSAGE_CREATE {\"n\":3}");
        world_do(&w, ends[i]);
        world_advance(&w, 150000);  /* not read: only a beat can tell that it is gone */
        CHECK_U64(count_of(GW_MESSAGE_CREATE, 1), 0);
        CHECK_EQ(gw_hold(w.gw, 1, 0), GW_OK);
        world_advance(&w, 5000);
        for (k = 0; k < w.event_count; k++) {
            const world_event *e = &w.events[k];
            if (e->type != GW_MESSAGE_CREATE) continue;
            CHECK(last == 0 || e->seq == last + 1);
            last = e->seq;
        }
        CHECK_U64(count_of(GW_MESSAGE_CREATE, 1), 2);                   /* 2 and 3, each once */
        CHECK_U64(world_count_events(&w, GW_RESUMED), 1);
        CHECK_U64(world_count_events(&w, GW_SESSION_LOST), 0);
        CHECK_U64(count_of(GW_DISCONNECTED, 0), 0);
        w.any_violations = 1;                       /* op 7 was ignored while it was held */
        world_end(&w);
    }
}

/* Each end needs room for its notices, and there is little: nobody is forgotten, or told twice. */
TEST(shards_cut_all_at_once_are_each_told_and_resumed_once)
{
    enum { MANY = 64 };
    init_shards(MANY, MANY);
    w.sim.quiet_dispatch = 1;
    world_begin(&w, NULL);
    world_advance(&w, 1000);
    CHECK_U64(world_count_events(&w, GW_READY), MANY);
    world_free_events(&w);
    world_do(&w, "cut");
    world_advance(&w, 1000);
    check_each_once(GW_DISCONNECTED, MANY);
    check_each_once(GW_CONNECTING, MANY);
    check_each_once(GW_RESUMED, MANY);
    world_end(&w);
}

/* ... although the caller takes one event a turn, and many turns pass. */
TEST(shards_cut_all_at_once_come_back_to_a_caller_of_one_event_a_frame)
{
    enum { MANY = 16 };
    uint32_t i, ends = 0, resumed = 0;
    init_shards(MANY, MANY);
    w.sim.quiet_dispatch = 1;
    world_begin(&w, NULL);
    world_advance(&w, 1000);
    world_do(&w, "cut");
    for (i = 0; i < 400; i++) {
        const gw_event *event;
        w.now_us += 16000;
        carry_all();
        event = gw_poll(w.gw);
        carry_all();
        if (!event) continue;
        ends += event->type == GW_DISCONNECTED;
        resumed += event->type == GW_RESUMED;
    }
    CHECK_U64(ends, MANY);
    CHECK_U64(resumed, MANY);
    CHECK_EQ(gw_shard_live(w.gw, GW_ALL), 1);
    world_end(&w);
}

/* One event takes the caller two minutes, and each shard has the next one waiting. */
TEST(shards_tended_during_long_work_all_beat_and_lose_nothing)
{
    const gw_event *event;
    uint32_t second;
    char content[16];
    begin_live(6);
    world_do(&w, "event MESSAGE_CREATE {\"content\":\"long\"}");
    carry_all();
    event = gw_poll(w.gw);
    if (!CHECK(event != NULL)) { world_end(&w); return; }
    for (second = 0; second < 120; second++) {
        w.now_us += 1000000;
        if (second % 10 == 0) world_do(&w, "event MESSAGE_CREATE {}");
        carry_all();
        gw_tend(w.gw);
        carry_all();
    }
    gw_text(&event->d, "content", content, sizeof content);
    CHECK_TEXT(content, "long");
    world_advance(&w, 1000);
    CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 0);
    CHECK_U64(world_count_events(&w, GW_POLLED_LATE), 0);
    CHECK_U64(world_count_events(&w, GW_MESSAGE_CREATE), 6 * 13 - 1);
    world_end(&w);                                  /* no beat was missed */
}

/* The caller tends for ten minutes and takes no event. Twelve connections are cut; their notices leave room for no
 * other, so that nothing is read any more. The four others beat on, and are not judged by what was not read. */
TEST(shards_beat_on_while_untaken_notices_take_all_the_room)
{
    enum { MANY = 16, CUT = 12 };
    world_stream *stream;
    uint32_t second, cut = 0;
    size_t i;
    char why[200];
    begin_live(MANY);
    world_free_events(&w);
    for (stream = w.streams; cut < CUT; stream = stream->next, cut++)
        CHECK(sim_command(w.gateway, stream->conn, "cut", world_sim_ms(&w), why, sizeof why));
    for (second = 0; second < 600; second++) {
        w.now_us += 1000000;
        carry_all();
        gw_tend(w.gw);
        carry_all();
    }
    CHECK(!gw__notices_have_room(&w.gw->shared.notices));
    CHECK(world_count(&w, WORLD_EV("heartbeat"), NULL) >= (MANY - CUT) * (600000 / 41250 - 1));
    CHECK_U64(sim_get_stats(w.gateway)->violations, 0);         /* no beat was missed */
    world_advance(&w, 100000);
    CHECK_U64(world_count_events(&w, GW_READY) + world_count_events(&w, GW_RESUMED), CUT);
    for (i = 0; i < w.event_count; i++)
        if (w.events[i].type == GW_DISCONNECTED) CHECK(w.events[i].reason != GW_REASON_NO_ACK);
    CHECK_EQ(gw_shard_live(w.gw, GW_ALL), 1);
    world_end(&w);
}

/* ---- fair to all ---- */

/* Seven are flooded with guilds of 60 KB, more of them than a turn takes; the eighth has a message
 * each 100 ms, and all beat each 2 s. A step takes 32 KiB at most, a turn of 64 KiB serves two at
 * least, so that a round of the seven is over within four turns. */
TEST(shards_in_a_flood_of_guilds_delay_no_other_by_more_than_four_turns)
{
    enum { FRAME_MS = 20, FLOODED = 7, LAST = 7 };
    uint32_t turn, sent = 0, got = 0, late = 0, most = 0, flood = 0, due[64], i;
    uint64_t beats, last_ms = 0;
    char line[256];
    init_shards(8, 8);
    w.sim.interval_ms = 2000;
    w.sim.quiet_dispatch = 1;
    w.cfg.turn_bytes = 65536;
    world_begin(&w, NULL);
    expect_each(GW_READY, 8);
    world_settle(&w);
    for (i = 0; i < FLOODED; i++) {
        snprintf(line, sizeof line, "every 20 shard %u big 60000", (unsigned)i);
        world_script(&w, line);
    }
    for (turn = 0; turn < 300; turn++) {
        const gw_event *event;
        w.now_us += FRAME_MS * 1000;
        if (turn % 5 == 0) {
            snprintf(line, sizeof line, "shard %d event MESSAGE_CREATE {\"n\":%u}", (int)LAST,
                     (unsigned)sent);
            world_do(&w, line);
            due[sent++ % COUNT(due)] = turn;
        }
        carry_all();
        while ((event = gw_poll(w.gw)) != NULL) {   /* one turn: till NULL */
            CHECK(event->type != GW_DISCONNECTED);
            flood += event->type == GW_GUILD_CREATE;
            if (event->shard != LAST || event->type != GW_MESSAGE_CREATE) continue;
            CHECK_U64(gw_u64(&event->d, "n"), got);
            if (turn - due[got % COUNT(due)] > most) most = turn - due[got % COUNT(due)];
            got++;
        }
    }
    CHECK_U64(sent - got, 0);
    if (!CHECK(most <= 4)) fprintf(stderr, "    one was %u turns late\n", (unsigned)most);
    CHECK(flood > 200);                             /* the flood was one, and went on */
    CHECK(turn * FLOODED > flood + 700);            /* ... more than there was time for */
    for (i = 0; i < FLOODED + 1; i++) {             /* beats of all, each on time: conn i + 1 */
        char mark[32];
        size_t nth;
        snprintf(mark, sizeof mark, "\"conn\":%u,", (unsigned)i + 1);
        beats = world_count(&w, WORLD_EV("heartbeat"), mark);
        CHECK(beats >= 2 && beats <= 3);
        last_ms = 0;
        for (nth = 0; nth < beats; nth++) {
            uint64_t at_ms;
            CHECK(world_line(&w, WORLD_EV("heartbeat"), mark, nth, line, sizeof line));
            at_ms = strtoull(strstr(line, "\"ts_ms\":") + 8, NULL, 10);
            if (last_ms && at_ms - last_ms > 2000 + 2 * FRAME_MS) late++;
            last_ms = at_ms;
        }
    }
    CHECK_U64(late, 0);
    world_end(&w);
}

/* The simulator's own flood: as much as the wire takes, on all shards. Each gets its share. */
TEST(shards_in_one_flood_share_the_turns_evenly)
{
    uint32_t got[4], turn, least, most, i;
    memset(got, 0, sizeof got);
    init_shards(4, 4);
    w.sim.quiet_dispatch = 1;
    world_begin(&w, NULL);
    expect_each(GW_READY, 4);
    world_settle(&w);
    world_do(&w, "rate flood");
    for (turn = 0; turn < 100; turn++) {
        const gw_event *event;
        w.now_us += 20000;
        carry_all();
        while ((event = gw_poll(w.gw)) != NULL)
            if (event->type < GW_GATEWAY_INFO) got[event->shard] += (uint32_t)event->bytes;
    }
    least = most = got[0];
    for (i = 1; i < 4; i++) {
        if (got[i] < least) least = got[i];
        if (got[i] > most) most = got[i];
    }
    CHECK(least > 1000000);
    CHECK(most - least < most / 10);
    world_end(&w);
}

/* ---- fixed memory ---- */
static void live_in_a_block(int32_t first, int32_t count, int32_t total, int32_t expected)
{
    size_t need;
    void *block;
    uint32_t i;
    gw_stats stats;
    init_shards(count, total);
    w.cfg.shard_first = first;
    w.cfg.max_payload = 16384;
    w.cfg.max_queued = 4;
    w.sim.event_rate = 2;
    w.sim.quiet_dispatch = 1;
    need = gw_memory_needed(&w.cfg);
    block = malloc(need);
    w.cfg.memory = block;
    w.cfg.memory_bytes = need;
    w.own_memory = 1;
    world_begin(&w, NULL);
    if (count == 0)
        for (i = 0; i < (uint32_t)expected; i++)
            CHECK_EQ(gw_shard_start(w.gw, (int32_t)i, NULL, 0), GW_OK);
    expect_each(GW_READY, (uint32_t)expected);
    for (i = 0; i < 10; i++) {
        uint32_t k;
        for (k = 0; k < 4; k++) CHECK(send_empty(GW_ALL) > 0);
        world_do(&w, "big 15000");
        world_advance(&w, 2000);
        world_do(&w, i % 2 ? "cut" : "op7");
        world_advance(&w, 5000);
    }
    CHECK_EQ(gw_shard_live(w.gw, GW_ALL), 1);
    CHECK_U64(world_count_events(&w, GW_FATAL), 0);
    CHECK_U64(world_count_events(&w, GW_SKIPPED), 0);
    CHECK_U64(world_count_events(&w, GW_COMMAND_DROPPED), 0);
    CHECK_U64(world_count_events(&w, GW_RESUMED), 10 * (uint64_t)expected);
    CHECK_U64(identifies(), (uint64_t)expected);
    gw_stats_read(w.gw, GW_ALL, &stats);
    CHECK(stats.memory_peak <= need);
    w.any_violations = 1;
    world_end(&w);
    free(block);
}

TEST(shards_in_a_fixed_block_of_the_needed_size_all_live)   { live_in_a_block(0, 5, 5, 5); }
TEST(shards_of_a_range_to_the_end_live_in_a_fixed_block)    { live_in_a_block(1, GW_ALL, 5, 4); }
TEST(shards_by_hand_all_of_the_total_live_in_a_fixed_block) { live_in_a_block(0, 0, 5, 5); }

TEST(shards_by_hand_beyond_a_fixed_block_are_refused_and_harm_none)
{
    size_t need;
    void *block;
    int32_t id, refused = 0;
    init_shards(1, 100);
    w.cfg.max_payload = 16384;
    w.cfg.max_queued = 4;
    need = gw_memory_needed(&w.cfg) + 2 * sizeof(gw__shard);
    block = malloc(need);
    w.cfg.memory = block;
    w.cfg.memory_bytes = need;
    w.own_memory = 1;
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    for (id = 1; id < 100; id++)
        if (gw_shard_start(w.gw, id, NULL, 0) == GW_ERROR_NO_MEMORY) refused++;
    CHECK(refused > 0);
    world_advance(&w, 10000);
    CHECK_EQ(gw_shard_live(w.gw, 0), 1);
    for (id = 1; id < 100; id++) gw_shard_stop(w.gw, id, GW_END);
    world_advance(&w, 10000);
    CHECK_EQ(gw_shard_live(w.gw, 0), 1);
    CHECK_U64(count_of(GW_DISCONNECTED, 0), 0);
    w.any_violations = 1;
    world_end(&w);
    free(block);
}

TEST(shards_advised_beyond_a_fixed_block_are_fatal_with_a_sentence)
{
    const world_event *fatal;
    size_t need;
    void *block;
    init_shards(GW_ALL, 0);
    w.cfg.url = NULL;
    w.cfg.max_concurrency = 1;
    w.sim.shards = 1000;
    w.sim.max_concurrency = 1;
    w.cfg.max_payload = 16384;
    w.cfg.max_queued = 4;
    need = gw_memory_needed(&w.cfg);
    block = malloc(need);
    w.cfg.memory = block;
    w.cfg.memory_bytes = need;
    w.own_memory = 1;
    world_begin(&w, NULL);
    fatal = WORLD_EXPECT(&w, GW_FATAL, 1000);
    CHECK_EQ(fatal->reason, GW_REASON_MEMORY);
    CHECK_HAS(fatal->message, "/gateway/bot advises");
    WORLD_EXPECT(&w, GW_CLOSED, 1000);
    CHECK_U64(identifies(), 0);
    world_end(&w);
    free(block);
}

/* ---- an end that the caller has not heard of yet ---- */
static int go_held[2], goes_lost;

static int32_t on_go(void *user, int32_t shard, uint32_t bucket)
{
    (void)user; (void)bucket;
    go_held[shard] = 1;
    return 0;
}

/* One thing in three seconds, by the word of config.identify_gate: an end gives a go back. */
static void poll_slowly(int polls)
{
    while (polls--) {
        world_stream *stream;
        const gw_event *event;
        sim_tick(w.gateway, world_sim_ms(&w));
        for (stream = w.streams; stream; stream = stream->next) world_carry(stream);
        event = gw_poll(w.gw);
        if (event && event->type == GW_IDENTIFYING) goes_lost += !go_held[event->shard];
        if (event && (event->type == GW_IDENTIFYING || event->type == GW_DISCONNECTED || event->type == GW_SHARD_STOPPED))
            go_held[event->shard] = 0;
        for (stream = w.streams; stream; stream = stream->next) world_carry(stream);
        w.now_us += 3000000u;
    }
}

TEST(gate_is_not_asked_before_the_caller_has_heard_of_the_last_end)
{
    int round;
    int32_t shard;
    goes_lost = 0;
    init_shards(0, 2);
    w.cfg.identify_gate = on_go;
    w.any_violations = 1;                               /* so slow a caller is late with all */
    world_begin(&w, NULL);
    for (shard = 0; shard < 2; shard++) CHECK_EQ(gw_shard_start(w.gw, shard, NULL, 0), GW_OK);
    poll_slowly(40);
    for (round = 0; round < 6; round++) {
        for (shard = 0; shard < 2; shard++) {
            CHECK_EQ(gw_shard_stop(w.gw, shard, GW_END), GW_OK);
            CHECK_EQ(gw_shard_start(w.gw, shard, NULL, 0), GW_OK);
        }
        poll_slowly(40);
        world_do(&w, "op9 false");
        poll_slowly(40);
    }
    CHECK(identifies() > 8);
    CHECK_EQ(goes_lost, 0);
    world_end(&w);
}

static int stopped_in_hand;

static void cut_and_stop(world *in, const gw_event *event)
{
    int i;
    if (event->d.len < 1000000 || stopped_in_hand) return;
    stopped_in_hand = 1;
    world_do(in, "cut");
    for (i = 0; i < 20; i++) {
        world_stream *stream;
        for (stream = in->streams; stream; stream = stream->next) world_carry(stream);
        gw_tend(in->gw);                                /* the connection ends here */
    }
    CHECK_EQ(gw_shard_stop(in->gw, event->shard, GW_KEEP), GW_OK);
}

TEST(shard_that_ends_with_a_large_event_in_hand_keeps_no_buffer_for_it)
{
    stopped_in_hand = 0;
    begin_live(2);
    world_advance(&w, 3000);
    w.on_event = cut_and_stop;
    world_do(&w, "big 2000000");
    world_advance(&w, 60000);
    CHECK(stopped_in_hand);
    CHECK(w.live_bytes < 500000);
    world_end(&w);
}

CHECK_MAIN()
