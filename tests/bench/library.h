/* library.h -- how the benchmark's parts use the library; discord_gateway.h comes before it. */
#ifndef BENCH_LIBRARY_H
#define BENCH_LIBRARY_H

/* Token, intents, URL and CA are filled in. */
gw_client *library_open(const bench_world *world, gw_config *cfg);
const gw_event *library_wait(gw_client *gw, uint32_t type);
bench_answer library_prepare(const bench_world *world, const bench_row *row);

#endif
