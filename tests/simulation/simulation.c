/* simulation.c -- the command line: one seed again, or many; then a line of figures.
 *   build/simulation SEED [-v]                 one run, exactly as it was; -v prints its trace
 *   build/simulation --for SECONDS [--from SEED] | --seeds N [--from SEED]
 *   --tls         with TLS inside
 *   --until LAW   ends with 0 at the first run that breaks that law, and with 1 if none does
 * Exit status: 0 all hold; 1 a law was broken; 2 a wrong command line. README.md tells the rest. */
#include "simulation.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct options {
    uint64_t seed, seeds, from;
    double seconds;
    const char *until;
    int one, tls, verbose, has_from;
} options;

static double clock_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static int usage(void)
{
    fprintf(stderr, "simulation SEED [-v] [--tls] | --for SECONDS [--from SEED] [--tls] | --seeds N [--from SEED] [--tls]\n");
    return 2;
}

static int read_options(options *o, int argc, char **argv)
{
    int i;
    memset(o, 0, sizeof *o);
    for (i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(argv[i], "-v") == 0) o->verbose = 2;
        else if (strcmp(argv[i], "--tls") == 0) o->tls = 1;
        else if (strcmp(argv[i], "--until") == 0 && *value) o->until = value, i++;
        else if (strcmp(argv[i], "--for") == 0 && *value) o->seconds = strtod(value, NULL), i++;
        else if (strcmp(argv[i], "--seeds") == 0 && *value) o->seeds = strtoull(value, NULL, 10), i++;
        else if (strcmp(argv[i], "--from") == 0 && *value) o->from = strtoull(value, NULL, 10), o->has_from = 1, i++;
        else if (argv[i][0] >= '0' && argv[i][0] <= '9') o->seed = strtoull(argv[i], NULL, 10), o->one = 1;
        else return 0;
    }
    if (!o->has_from) o->from = o->seconds > 0 ? (uint64_t)time(NULL) * 1000u : 1;     /* fresh ones */
    return o->one || o->seconds > 0 || o->seeds;
}

static void print_figures(const figures *f, const options *o, double seconds)
{
    uint32_t i;
    printf("simulation%s: %llu seeds, %.1f virtual hours, %llu faults injected, %llu events delivered, %llu connections, "
           "%llu resumes, %llu identifies, %llu restarts, %llu violations; %.0f s\n", o->tls ? " --tls" : "",
           (unsigned long long)f->seeds, (double)f->virtual_us / 3.6e9, (unsigned long long)f->faults,
           (unsigned long long)f->events, (unsigned long long)f->connections, (unsigned long long)f->resumes,
           (unsigned long long)f->identifies, (unsigned long long)f->restarts, (unsigned long long)f->violations, seconds);
    printf("faults:");
    for (i = 0; i < f->kind_count; i++)
        printf("%s %s %llu", i ? "," : "", f->kinds[i].name, (unsigned long long)f->kinds[i].count);
    printf("\n");
}

int main(int argc, char **argv)
{
    options o;
    figures f;
    double began = clock_s();
    int broken;
    memset(&f, 0, sizeof f);
    if (!read_options(&o, argc, argv)) return usage();
    if (o.tls && !wire_tls_begin()) return 2;
    if (o.one) {
        run_seed(o.seed, o.tls, o.verbose ? o.verbose : 1, &f, &broken);
        return f.violations != 0;
    }
    if (!o.until) printf("seeds from %llu\n", (unsigned long long)o.from);
    while ((!o.seeds || f.seeds < o.seeds) && (o.seconds <= 0 || clock_s() - began < o.seconds)) {
        run_seed(o.from + f.seeds, o.tls, o.until ? -1 : 0, &f, &broken);
        if (o.until && broken >= 0 && strcmp(law_name((law)broken), o.until) == 0) {
            printf("%s: caught after %llu seeds\n", o.until, (unsigned long long)f.seeds);
            return 0;
        }
    }
    if (o.until) printf("%s: not caught by %llu seeds\n", o.until, (unsigned long long)f.seeds);
    else print_figures(&f, &o, clock_s() - began);
    return o.until || f.violations;
}
