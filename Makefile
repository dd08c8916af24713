# discord_gateway.h is one header: who uses it builds nothing. This builds its programs, proves and installs it.
#
#   make run        see it work: against the simulator, or with DISCORD_TOKEN set against Discord itself
#   make test       prove it; STAGES="unit asan" runs some of its stages only
#   make            the programs, into build/
#   make examples   those of examples/ only
#   make simulate   the deterministic simulation, SIMULATE_SECONDS (60) long
#   make coverage   which lines and branches of the header the tests reach; the rest by name
#   make figures    what a hostile gateway costs, as a table
#   make soak       the real client over a bad line between two network namespaces, SOAK_SECONDS (1800); as root
#   make asan       the unit tests under AddressSanitizer and UBSan
#   make bench      the library against a bare BearSSL loop: a table, build/bench.json, and what changed since
#                   `make bench-record` wrote tests/bench/ratios.txt; RUNS=5
#   make bench-uptime                   memory after an hour of load and reconnects; MINUTES=60 MINUTE_MS=60000
#   make fuzz       all fuzzers, FUZZ_SECONDS (20) each; FUZZ="ws json" some of them
#   make install, make uninstall        to PREFIX (/usr/local), below DESTDIR if that is set
#   make clean
#
# CC CXX CPPFLAGS CFLAGS LDFLAGS LDLIBS PYTHON are honoured. BearSSL and jsmn come from the system (Debian, Ubuntu: they
# are installed when missing), or from sources of your own: BEARSSL=DIR (built there with its own make) JSMN=DIR.

PREFIX ?= /usr/local
CFLAGS ?= -O2 -g
BUILD   = build

WARNINGS = -Wall -Wextra -Wpedantic -Wconversion -Wshadow
# -isystem: their headers are not to be judged by our warning flags.
comma := ,
DEPENDENCY_CPPFLAGS = $(if $(BEARSSL),-isystem $(BEARSSL)/inc) $(if $(JSMN),-isystem $(JSMN))
DEPENDENCY_LDFLAGS  = $(if $(BEARSSL),-L$(BEARSSL)/build -Wl$(comma)-rpath$(comma)$(abspath $(BEARSSL))/build)
ALL_CPPFLAGS = -I. -Itests -Itests/simulator -D_DEFAULT_SOURCE $(DEPENDENCY_CPPFLAGS) $(CPPFLAGS)
ALL_LDFLAGS  = $(DEPENDENCY_LDFLAGS) $(LDFLAGS)
ALL_LDLIBS   = -lbearssl -lpthread $(LDLIBS)

# The stages of the proof build the tests again with other flags: VARIANT is added to the usual ones, TEST_LANGUAGE
# replaces the compiler, BUILD says where. -O1, because each test holds the whole implementation.
VARIANT       =
TEST_LANGUAGE = $(CC) -std=c99
TEST_CFLAGS   = $(if $(filter file,$(origin CFLAGS)),-O1 -g,$(CFLAGS)) $(WARNINGS)

EXAMPLES   = $(patsubst examples/%.c,$(BUILD)/%,$(wildcard examples/*.c))
PROBES     = $(patsubst tests/%.c,$(BUILD)/%,$(wildcard tests/ws_echo.c tests/tls_probe.c tests/http_probe.c))
SIMULATOR  = $(if $(wildcard tests/simulator/gwsim.c),$(BUILD)/gwsim)
SIM_CORE   = $(BUILD)/libgateway_sim.a
SIM_OBJECT = $(patsubst tests/%.c,$(BUILD)/%.o,$(filter-out %/gwsim.c,$(wildcard tests/simulator/*.c)))
PROGRAMS   = $(EXAMPLES) $(PROBES) $(SIMULATOR) $(BUILD)/replay
TESTS      = $(patsubst tests/%.c,$(BUILD)/%,$(wildcard tests/test_*.c))

export MAKE CC CXX BUILD DEPENDENCY_CPPFLAGS DEPENDENCY_LDFLAGS    # for the scripts in tests/

# The deterministic simulation (tests/simulation/README.md).
SIMULATION_SECONDS = $(or $(SIMULATE_SECONDS),60)
SIMULATION_OBJECT  = $(patsubst tests/%.c,$(BUILD)/objects/%.o,$(wildcard tests/simulation/*.c))

all: $(PROGRAMS)
examples: $(EXAMPLES)
tests: $(TESTS)
list:
	@echo $(PROGRAMS)

run:
	@sh tests/setup.sh run
	@$(MAKE) --no-print-directory $(BUILD)/tail $(if $(DISCORD_TOKEN),,$(BUILD)/gwsim)
	@$(if $(DISCORD_TOKEN),$(BUILD)/tail,"$$(sh tests/setup.sh python)" tests/story.py)

test:
	@sh tests/setup.sh test
	@sh tests/run_all.sh $(STAGES)

# Many seeds of the deterministic simulation, fresh ones: tests/simulation/README.md.
simulate: $(BUILD)/simulation
	$(BUILD)/simulation --for $(SIMULATION_SECONDS) $(SIMULATE_OPTIONS)

coverage:
	@sh tests/setup.sh coverage
	@sh tests/coverage.sh

figures:
	@$(MAKE) -s --no-print-directory $(BUILD)/hostile_figures
	@$(BUILD)/hostile_figures

soak:
	@sh tests/setup.sh soak
	@$(MAKE) -s --no-print-directory $(BUILD)/tail $(BUILD)/gwsim
	@"$$(sh tests/setup.sh python)" tests/soak/soak.py

asan:
	@sh tests/setup.sh test
	@sh tests/run_all.sh asan

FUZZ_SECONDS = 20
fuzz:
	@sh tests/setup.sh fuzz
	@FUZZ_SECONDS=$(FUZZ_SECONDS) CPPFLAGS="$(DEPENDENCY_CPPFLAGS) $(CPPFLAGS)" \
	    LDFLAGS="$(DEPENDENCY_LDFLAGS) $(LDFLAGS)" LDLIBS="$(ALL_LDLIBS)" sh tests/fuzz_test.sh $(FUZZ)

# Before anything is compiled: nothing is done, and quickly, where BearSSL and jsmn are there.
setup:
	@sh tests/setup.sh build
$(PROGRAMS) $(TESTS) $(SIM_OBJECT) $(SIMULATION_OBJECT): | setup

# An old program must not be taken for the new one that did not compile: hence the rm.
LINK = -MMD -MP -MT $@ -MF $@.d -o $@ $<
$(BUILD)/%: examples/%.c
	@mkdir -p $(@D) && rm -f $@
	$(CC) -std=c99 $(ALL_CPPFLAGS) $(CFLAGS) $(WARNINGS) $(VARIANT) $(ALL_LDFLAGS) $(LINK) $(ALL_LDLIBS)

$(BUILD)/%: tests/%.c
	@mkdir -p $(@D) && rm -f $@
	$(CC) -std=c99 $(ALL_CPPFLAGS) $(CFLAGS) $(WARNINGS) $(VARIANT) $(ALL_LDFLAGS) $(LINK) $(ALL_LDLIBS)

$(BUILD)/%: tests/replay/%.c
	@mkdir -p $(@D) && rm -f $@
	$(CC) -std=c99 $(ALL_CPPFLAGS) $(CFLAGS) $(WARNINGS) $(VARIANT) $(ALL_LDFLAGS) $(LINK) $(ALL_LDLIBS)

$(BUILD)/gwsim: tests/simulator/gwsim.c $(SIM_CORE)
	@mkdir -p $(@D) && rm -f $@
	$(CC) -std=c99 $(ALL_CPPFLAGS) $(CFLAGS) $(WARNINGS) $(VARIANT) $(ALL_LDFLAGS) $(LINK) $(SIM_CORE) $(ALL_LDLIBS)

$(BUILD)/test_%: tests/test_%.c $(SIM_CORE)
	@mkdir -p $(@D) && rm -f $@
	$(TEST_LANGUAGE) $(ALL_CPPFLAGS) $(TEST_CFLAGS) $(VARIANT) $(ALL_LDFLAGS) $(LINK) -x none $(SIM_CORE) $(ALL_LDLIBS)

$(BUILD)/simulator/%.o: tests/simulator/%.c
	@mkdir -p $(@D)
	$(CC) -std=c99 $(ALL_CPPFLAGS) $(CFLAGS) $(WARNINGS) $(VARIANT) -MMD -MP -c -o $@ $<

$(BUILD)/objects/simulation/%.o: tests/simulation/%.c
	@mkdir -p $(@D)
	$(CC) -std=c99 $(ALL_CPPFLAGS) $(CFLAGS) $(WARNINGS) $(VARIANT) -MMD -MP -c -o $@ $<

$(BUILD)/simulation: $(SIMULATION_OBJECT) $(SIM_CORE)
	@rm -f $@
	$(CC) $(ALL_LDFLAGS) -o $@ $(SIMULATION_OBJECT) $(SIM_CORE) $(ALL_LDLIBS)

$(SIM_CORE): $(SIM_OBJECT)
	@mkdir -p $(@D) && rm -f $@
	$(AR) rcs $@ $(SIM_OBJECT)

# The benchmark is built with the flags that a user's program would have, whatever VARIANT is.
RUNS      = 5
MINUTES   = 60
MINUTE_MS = 60000
BENCH_OBJECT = $(patsubst tests/%.c,$(BUILD)/%.o,$(wildcard tests/bench/*.c))

$(BUILD)/bench/%.o: tests/bench/%.c | setup
	@mkdir -p $(@D)
	$(CC) -std=c99 $(ALL_CPPFLAGS) $(CFLAGS) $(WARNINGS) -MMD -MP -c -o $@ $<

$(BUILD)/gwbench: $(BENCH_OBJECT)
	@rm -f $@
	$(CC) $(CFLAGS) $(ALL_LDFLAGS) -o $@ $(BENCH_OBJECT) $(ALL_LDLIBS)

bench: $(BUILD)/gwbench
	@"$$(sh tests/setup.sh python)" tests/bench/run.py --runs $(RUNS)
	@"$$(sh tests/setup.sh python)" tests/bench/plot.py $(BUILD)/bench.json $(BUILD)/bench.svg

bench-record: $(BUILD)/gwbench
	@"$$(sh tests/setup.sh python)" tests/bench/run.py --runs $(RUNS) --record

bench-uptime: $(BUILD)/gwbench
	@$(BUILD)/gwbench --uptime $(MINUTES) --minute-ms $(MINUTE_MS)

-include $(wildcard $(BUILD)/*.d $(BUILD)/simulator/*.d $(BUILD)/bench/*.d $(BUILD)/objects/simulation/*.d)

# A header belongs to no architecture: share/, where pkg-config and CMake look as well. The version is the header's.
VERSION = $(shell sed -n 's/^.define GW_VERSION_TEXT "\(.*\)"/\1/p' discord_gateway.h)
INSTALL_TO = $(DESTDIR)$(PREFIX)
INSTALLED  = include/discord_gateway.h share/pkgconfig/discord_gateway.pc \
             share/cmake/discord_gateway/discord_gateway-config.cmake \
             share/cmake/discord_gateway/discord_gateway-config-version.cmake
install:
	mkdir -p "$(INSTALL_TO)/include" "$(INSTALL_TO)/share/pkgconfig" "$(INSTALL_TO)/share/cmake/discord_gateway"
	cp discord_gateway.h "$(INSTALL_TO)/include/"
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' packaging/discord_gateway.pc.in \
	    >"$(INSTALL_TO)/share/pkgconfig/discord_gateway.pc"
	cp packaging/*.cmake "$(INSTALL_TO)/share/cmake/discord_gateway/"
	cd "$(INSTALL_TO)" && chmod 644 $(INSTALLED)

uninstall:
	if cd "$(INSTALL_TO)"; then rm -f $(INSTALLED); rmdir share/cmake/discord_gateway 2>/dev/null || true; fi

clean:
	rm -rf $(BUILD)

.PHONY: all examples tests list run test simulate coverage figures soak asan fuzz setup bench bench-record bench-uptime install uninstall clean
.DELETE_ON_ERROR:
