package chaos

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/messagedb-go/messagedb/internal/pgtest"
)

// A soakPart is a test that a soak repeats. It ends at about the time until, if it can be of any length.
type soakPart struct {
	name  string
	share int // of the time; 0: it has a length of its own
	run   func(t *testing.T, seed uint64, until time.Time)
}

// of is a part with a length of its own.
func of(name string, run func(*testing.T, uint64)) soakPart {
	return soakPart{name, 0, func(t *testing.T, seed uint64, _ time.Time) { run(t, seed) }}
}

// soakKills is how many processes of durable consumers a soak of an hour kills at least.
const soakKills = 1000

var soakParts = []soakPart{
	of("chaos", chaos), of("terminations", terminations),
	of("restarts", func(t *testing.T, seed uint64) { restarts(t, seed, 4) }),
	of("consumers", killedConsumers), of("writers", killedWriters), of("handlers", failingHandlers), of("notifications", lostNotifications),
	of("outages", func(t *testing.T, seed uint64) { longOutages(t, seed, time.Minute) }),
	of("model", func(t *testing.T, seed uint64) { model(t, seed, 1000) }),
	{"killed processes", 6, func(t *testing.T, seed uint64, until time.Time) {
		kills := int(soakKills * min(duration.Hours(), 1))
		killedProcesses(t, seed, max(kills-results.sum().kills, 1), until)
	}},
	{"silent processes", 1, func(t *testing.T, seed uint64, until time.Time) { silentProcesses(t, seed, 1, until) }},
	{"processes over restarts", 1, func(t *testing.T, seed uint64, until time.Time) { processesOutliveRestarts(t, seed, 1, until) }},
	{"changing groups", 2, func(t *testing.T, seed uint64, until time.Time) {
		changingGroups(t, seed, 1, 500*time.Millisecond, until)
	}},
	{"frozen groups", 2, func(t *testing.T, seed uint64, until time.Time) { frozenGroups(t, seed, 1, time.Minute, until) }},
	{"outages of groups", 1, func(t *testing.T, seed uint64, until time.Time) { groupOutages(t, seed, 1, until) }},
	{"pooled groups", 1, func(t *testing.T, seed uint64, until time.Time) {
		found := pgtest.PgBouncers(t)
		if len(found) == 0 {
			t.Skip("pgbouncer is not installed")
		}
		pooledGroups(t, seed, found[int(seed%uint64(len(found)))], 1, until)
	}},
	{"poisoned groups", 2, func(t *testing.T, seed uint64, until time.Time) { poisonedGroups(t, seed, 4, until) }},
	{"resized groups", 2, func(t *testing.T, seed uint64, until time.Time) { resizedGroups(t, seed, 20, until) }},
	{"operated groups", 2, func(t *testing.T, seed uint64, until time.Time) { operatedGroups(t, seed, 1, until) }},
	{"promoted groups", 2, func(t *testing.T, seed uint64, until time.Time) { promotedGroups(t, seed, 2, until) }},
}

// TestSoak repeats the parts with one seed after another, until the time is over. The last one may take longer.
func TestSoak(t *testing.T) {
	if *sizeFlag != "soak" {
		t.Skip("runs at size soak, see make soak")
	}
	rng := rand.New(rand.NewPCG(*seedFlag, 3))
	shares := len(soakParts) // some time for those without a share
	for _, p := range soakParts {
		shares += p.share
	}
	for end := time.Now().Add(*duration); ; {
		ran := false
		for _, i := range rng.Perm(len(soakParts)) {
			p, seed := soakParts[i], rng.Uint64()
			until := time.Now().Add(min(time.Until(end), *duration*time.Duration(p.share)/time.Duration(shares)))
			t.Run(p.name, func(t *testing.T) {
				ran = true
				t.Logf("seed %d", seed)
				p.run(t, seed, until)
			})
			if t.Failed() || time.Now().After(end) {
				return
			}
		}
		if !ran {
			t.Fatal("no part of the soak has the name of -run")
		}
	}
}
