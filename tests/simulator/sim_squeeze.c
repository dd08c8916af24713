/* sim_squeeze.c -- compression without a compressor: stored blocks are valid zlib and valid Zstandard.
 * One message may be several blocks, so a decoder that stops after the first is found out. */
#include "sim_internal.h"

#define SIM_BLOCK 60000u

static void sim_le(sim_buf *out, uint32_t value, int bytes)
{
    uint8_t byte;
    for (; bytes > 0; bytes--, value >>= 8) {
        byte = (uint8_t)(value & 0xFF);
        sim_buf_append(out, &byte, 1);
    }
}

/* RFC 1951 section 3.2.4: a stored block. */
static void sim_stored(sim_buf *out, int final, const uint8_t *bytes, size_t len)
{
    sim_le(out, final ? 1 : 0, 1);
    sim_le(out, (uint32_t)len, 2);
    sim_le(out, ~(uint32_t)len & 0xFFFFu, 2);
    sim_buf_append(out, bytes, len);
}

/* RFC 1950: 78 01 and blocks; a stream message ends with an empty block, 00 00 FF FF at its end. */
static void sim_zlib(sim_buf *out, int begin, int whole, const uint8_t *bytes, size_t len)
{
    uint32_t low = 1, high = 0;
    size_t i;
    if (begin) sim_buf_append(out, "\x78\x01", 2);
    for (i = 0; i < len; i += SIM_BLOCK)
        sim_stored(out, 0, bytes + i, len - i < SIM_BLOCK ? len - i : SIM_BLOCK);
    sim_stored(out, whole, bytes, 0);
    if (!whole) return;
    for (i = 0; i < len; i++) { low = (low + bytes[i]) % 65521u; high = (high + low) % 65521u; }
    low |= high << 16;      /* Adler-32, big-endian */
    sim_le(out, low >> 24 | (low >> 8 & 0xFF00u) | (low << 8 & 0xFF0000u) | low << 24, 4);
}

/* RFC 8878 section 3.1.1: magic, a descriptor with a 1 MiB window, then raw blocks; the frame never ends. */
static void sim_zstd(sim_buf *out, int begin, const uint8_t *bytes, size_t len)
{
    size_t i;
    if (begin) sim_buf_append(out, "\x28\xB5\x2F\xFD\x00\x50", 6);
    for (i = 0; i < len; i += SIM_BLOCK) {
        size_t size = len - i < SIM_BLOCK ? len - i : SIM_BLOCK;
        sim_le(out, (uint32_t)size << 3, 3);
        sim_buf_append(out, bytes + i, size);
    }
}

void sim_squeeze(sim_connection *conn, sim_buf *out, const void *payload, size_t len)
{
    int begin = !conn->squeeze_begun;
    conn->squeeze_begun = 1;
    if (conn->squeeze == SIM_SQUEEZE_ZSTD_STREAM) sim_zstd(out, begin, (const uint8_t *)payload, len);
    else if (conn->squeeze == SIM_SQUEEZE_ZLIB_STREAM) sim_zlib(out, begin, 0, (const uint8_t *)payload, len);
    else sim_zlib(out, 1, 1, (const uint8_t *)payload, len);
}
