/* The allocator hook and the fixed block: all comes back, nothing else is used, too little of it crashes nothing. */
#define DISCORD_GATEWAY_IMPLEMENTATION
#include "discord_gateway.h"
#include "world.h"

static world w;

#define PRESENCE "{\"since\":null,\"activities\":[],\"status\":\"online\",\"afk\":false}"

static gw_ticket send_sounds(void)
{
    static const char d[] = "{\"guild_ids\":[]}";
    return gw_send_raw(w.gw, 0, 31, d, strlen(d));
}

/* ---- memory ---- */
TEST(memory_failing_at_any_allocation_crashes_nothing)
{
    uint64_t after, most;
    world_init(&w);
    world_begin(&w, "on ready x1 +1000 cut");
    world_advance(&w, 5000);
    most = w.allocations;
    world_end(&w);
    for (after = 1; after < most + 3; after += world_is_slow() ? 5 : 1) {
        world_init(&w);
        w.fail_after = after;
        w.any_violations = 1;
        w.gateway = sim_new(&w.sim, world_sim_ms(&w));
        world_script(&w, "on ready x1 +1000 cut");
        w.gw = gw_open(&w.cfg);
        if (w.gw) {
            uint32_t i;
            for (i = 0; i < 300; i++) {
                const gw_event *event;
                world_stream *stream;
                uint32_t few = 100;
                w.now_us += 500000;
                sim_tick(w.gateway, world_sim_ms(&w));
                for (stream = w.streams; stream; stream = stream->next) world_carry(stream);
                while (few-- && (event = gw_poll(w.gw)) != NULL) {
                    CHECK(event->message != NULL && event->name != NULL);
                    gw_u64(&event->d, "user.id");
                }
                if (i == 100) { gw_send_raw(w.gw, 0, 3, PRESENCE, strlen(PRESENCE)); gw_why(w.gw); }
                if (i == 150) w.fail_after = 0;     /* memory is back: then so is the bot */
            }
            world_advance(&w, 60000);
            if (gw_alive(w.gw)) CHECK_EQ(gw_shard_live(w.gw, 0), 1);
        }
        world_end(&w);
    }
}

static void use_block(world *x, void *block, size_t bytes)
{
    x->cfg.memory = block;
    x->cfg.memory_bytes = bytes;
    x->own_memory = 1;
}

TEST(memory_fixed_block_of_the_needed_size_serves_a_whole_session)
{
    size_t need;
    void *block;
    gw_stats stats;
    uint32_t i;
    world_init(&w);
    w.cfg.max_payload = 65536;
    w.cfg.max_queued = 8;
    w.sim.event_rate = 20;
    need = gw_memory_needed(&w.cfg);
    CHECK(need > 2 * 65536 && need < 1000000);
    block = malloc(need);
    use_block(&w, block, need);
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    for (i = 0; i < 20; i++) {
        uint32_t j;
        for (j = 0; j < 8; j++) send_sounds();
        world_do(&w, "big 60000");
        world_advance(&w, 2000);
        world_do(&w, i % 2 ? "cut" : "op7");
        world_advance(&w, 5000);
    }
    world_do(&w, "rate 0");
    world_advance(&w, 5000);
    CHECK_U64(world_count_events(&w, GW_SKIPPED), 0);
    CHECK_U64(world_count_events(&w, GW_RESUMED), 20);
    CHECK_U64(world_count(&w, WORLD_EV("identify"), NULL), 1);
    gw_stats_read(w.gw, GW_ALL, &stats);
    CHECK(stats.memory_peak <= need);
    world_check_delivery(&w, 1);
    w.any_violations = 1;
    world_end(&w);
    free(block);
}

TEST(memory_needed_counts_no_anchors_that_are_borrowed)
{
    static const char pem[] = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    br_x509_trust_anchor anchors[1];
    gw_config cfg;
    size_t none, borrowed, own;
    memset(anchors, 0, sizeof anchors);
    world_init(&w);
    cfg = w.cfg;
    cfg.url = "wss://gateway.test/";
    cfg.transport = NULL;
    none = gw_memory_needed(&cfg);
    cfg.ca_pem = pem;
    own = gw_memory_needed(&cfg);
    cfg.trust_anchors = anchors;
    cfg.trust_anchor_count = 1;
    cfg.ca_pem = NULL;
    borrowed = gw_memory_needed(&cfg);
    CHECK(borrowed <= none);
    CHECK(own > borrowed + BR_X509_BUFSIZE_KEY);
}

TEST(memory_fixed_block_skips_what_does_not_fit_and_lives)
{
    size_t bytes = 120000;
    void *block = malloc(bytes);
    world_init(&w);
    w.cfg.max_payload = 10000000;                   /* more than the block could ever hold */
    w.cfg.max_queued = 4;
    use_block(&w, block, bytes);
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    world_do(&w, "big 500000");
    WORLD_EXPECT(&w, GW_SKIPPED, 1000);
    world_do(&w, "event MESSAGE_CREATE {}");
    WORLD_EXPECT(&w, GW_MESSAGE_CREATE, 1000);
    CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 0);
    world_do(&w, "cut");
    WORLD_EXPECT(&w, GW_RESUMED, 1000);
    world_end(&w);
    free(block);
}

TEST(memory_fixed_block_too_small_never_crashes)
{
    size_t bytes, opened = 0, live = 0, step = world_is_slow() ? 2311 : 311;
    uint8_t *block = (uint8_t *)malloc(120016);
    for (bytes = 0; bytes < 120000; bytes += step) {
        world_init(&w);
        w.cfg.max_payload = 32768;
        w.any_violations = 1;
        w.idle_spins = 0;
        use_block(&w, block + bytes % 13, bytes);   /* also where it is not aligned */
        w.gateway = sim_new(&w.sim, world_sim_ms(&w));
        w.gw = gw_open(&w.cfg);
        if (w.gw) {
            opened++;
            world_advance(&w, 60000);
            send_sounds();
            gw_why(w.gw);
            world_advance(&w, 60000);
            live += (size_t)gw_shard_live(w.gw, 0);
        }
        world_end(&w);
    }
    CHECK(opened > 0 && opened < 120000 / step);
    CHECK(live > 0);
    free(block);
}

TEST(memory_alloc_hook_gets_all_back_after_a_busy_life)
{
    uint32_t i;
    world_init(&w);
    w.sim.event_rate = 50;
    world_begin(&w, "on accept fragments 4");
    for (i = 0; i < 10; i++) {
        world_advance(&w, 3000);
        world_do(&w, i % 3 == 0 ? "cut" : i % 3 == 1 ? "big 300000" : "op9 false");
        send_sounds();
    }
    CHECK(w.live_blocks > 0);
    CHECK(w.live_bytes < 400000);
    {
        gw_stats stats;
        gw_stats_read(w.gw, GW_ALL, &stats);
        CHECK_U64(stats.memory_now, w.live_bytes);
    }
    w.any_violations = 1;
    world_end(&w);                                  /* checks that nothing is left */
}

CHECK_MAIN()
