/* client.c -- discord_gateway.h itself, compiled once for the simulation, and windows into it. A build with a
 * deliberate defect compiles this file against a patched copy of the header: tests/simulation_test.sh. */
extern const char *client_api_url;
#define GW_API_URL client_api_url
#define DISCORD_GATEWAY_IMPLEMENTATION
#ifdef SIMULATION_HEADER
#include SIMULATION_HEADER
#else
#include "discord_gateway.h"
#endif
#include "simulation.h"

const char *client_api_url = "http://127.0.0.1";

uint32_t client_shards(const gw_client *gw) { return gw->shard_count; }

const void *client_api_stream(const gw_client *gw) { return gw->discover.link.tcp.stream; }

void client_look(const gw_client *gw, uint32_t index, client_window *out)
{
    const gw__shard *shard = gw->shards[index];
    out->id = shard->id;
    out->state = gw__state_name(shard->state);
    out->state_number = (uint32_t)shard->state + (uint32_t)shard->connects * GW__STATE_COUNT;    /* each attempt anew */
    out->is_open = shard->state >= GW__HELLO && shard->state <= GW__LIVE;
    out->live = shard->state == GW__LIVE;
    out->held = shard->held;
    out->waits = shard->state == GW__WAITING;
    out->gated = shard->state == GW__GATED;
    out->closing = shard->state == GW__CLOSING;
    out->stopped = shard->state == GW__STOPPED;
    out->stream = shard->link.tcp.stream;
}
