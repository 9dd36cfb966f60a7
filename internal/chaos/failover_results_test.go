package chaos

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
)

// A failoverResult is the result of a failover.
type failoverResult struct {
	fault, mode, through string
	ttl                  int

	patroni         time.Duration // from the last write that the old primary accepted until another node accepted one
	deadHosts       int           // that a client asks in vain before that node
	noAck, silent   time.Duration // the longest time without an acknowledgement, and of a subscription without a message
	others          time.Duration // the longest time without an acknowledgement of the other shard; 0: there is none
	unknown         int           // writes that ended with an unknown outcome
	ahead           int           // of these, those that expected a version of a stream, after messages were lost
	refused         int           // writes that ended with another error, though they should have succeeded
	lost            int           // acknowledged messages that are no longer in the store
	handled         int           // deliveries of messages that are no longer in the store
	unreported      int           // of these, those that were not reported
	misreported     int           // messages that were reported as missing, and are in the store
	stored          int
	violations      map[string]int
	silentSubscribe string // the name of the subscription that was silent for longest
}

// connectTimeout is the client's default: how long it waits for a host that does not answer.
const connectTimeout = 2 * time.Second

// othersLimit is how long there may be no acknowledgement of the shard that does not fail.
const othersLimit = time.Second

// limit returns how long there may be no acknowledgement.
func (r *failoverResult) limit() time.Duration {
	return r.patroni + time.Second + time.Duration(r.deadHosts)*connectTimeout
}

// misses returns the floors that the result misses.
func (r *failoverResult) misses() (misses []string) {
	miss := func(missed bool, format string, args ...any) {
		if missed {
			misses = append(misses, fmt.Sprintf(format, args...))
		}
	}
	// An attempt that was lost may still arrive, and succeed when the stream has reached the version again.
	miss(r.fault != "frozen" && r.unknown-r.ahead+r.refused > 0, "%d writes of unknown outcome (%d of them expect a version that may be lost) and %d refused writes, want none",
		r.unknown, r.ahead, r.refused)
	miss(r.noAck > r.limit(), "no acknowledgement for %v, want at most %v", round(r.noAck), round(r.limit()))
	miss(r.silent > r.limit()+time.Second, "subscription %q received nothing for %v, want at most %v", r.silentSubscribe, round(r.silent), round(r.limit()+time.Second))
	// A shard that does not answer occupies connections of the pool until they have timed out.
	miss(r.fault != "frozen" && r.others > othersLimit, "no acknowledgement of the other shard for %v, want at most %v", round(r.others), othersLimit)
	miss(r.mode == "sync" && r.lost > 0, "%d acknowledged messages are lost, want none with synchronous replication", r.lost)
	miss(r.unreported > 0, "%d of %d deliveries of messages that are lost were not reported", r.unreported, r.handled)
	miss(r.misreported > 0, "%d messages were reported as missing, and are in the store", r.misreported)
	for _, v := range validators {
		miss(r.violations[v.name] > 0, "%s: %d violations", v.name, r.violations[v.name])
	}
	return misses
}

func (r *failoverResult) holes() int { return r.violations["Reliable"] + r.violations["Resumable"] }

// wrong returns how often another promise was broken.
func (r *failoverResult) wrong() int {
	return r.violations["Durable"] + r.violations["NoGhost"] + r.violations["Once"] + r.violations["Ordered"] +
		r.violations["Bounded"] + r.violations["Isolation"] + r.violations["Leak"]
}

func (r *failoverResult) name() string {
	name := fmt.Sprintf("%s/%s/ttl=%d", r.fault, r.mode, r.ttl)
	if r.through != "" {
		name += "/" + r.through
	}
	return name
}

// line returns the report line.
func (r *failoverResult) line() string {
	return fmt.Sprintf("failover=%s patroni=%v noack=%v (limit %v) silent=%v (limit %v) others=%v msgs=%d unknown=%d refused=%d lost=%d handled_lost=%d (unreported %d) holes=%d wrong=%d seed=%d",
		r.name(), round(r.patroni), round(r.noAck), round(r.limit()), round(r.silent), round(r.limit()+time.Second), round(r.others),
		r.stored, r.unknown, r.refused, r.lost, r.handled, r.unreported, r.holes(), r.wrong(), *seedFlag)
}

func round(d time.Duration) time.Duration { return d.Round(100 * time.Millisecond) }

// evaluate fails the test for each floor that the failover misses.
func (f *failover) evaluate(t *testing.T) {
	t.Helper()
	w, r := f.w, &f.result
	r.fault, r.mode, r.ttl, r.through = f.fault, f.mode(), f.times.TTL, f.front()
	r.noAck, r.others = f.acks.longest, f.others.longest
	for s, p := range f.delivered {
		if p.longest > r.silent {
			r.silent, r.silentSubscribe = p.longest, s.Name
		}
	}
	for _, o := range w.ops {
		if o.unknown {
			r.unknown++
			t.Logf("unknown: a write to %s that expects a version: %t", o.stream, o.expected != nil)
		}
	}
	r.refused, r.stored = len(w.refused), len(w.store)
	w.setAside(r)
	for _, o := range w.ops {
		if o.unknown && o.expected != nil && r.lost > 0 {
			r.ahead++
		}
	}
	r.violations = make(map[string]int)
	for name, found := range validate(w.history, w.store) {
		r.violations[name] = len(found)
		t.Logf("%s:\n%s", name, strings.Join(found[:min(len(found), 5)], "\n"))
	}
	for _, err := range w.refused[:min(len(w.refused), 5)] {
		t.Logf("refused: %v", err)
	}
	for _, err := range w.errors {
		checkCanaries(t, fmt.Sprintf("%v %+v", err, err))
	}
	checkCanaries(t, w.log.String())
	t.Log(r.line())
	if w.stuck != nil {
		t.Errorf("not everything was received: %v (seed %d)", w.stuck, *seedFlag)
	}
	for _, miss := range r.misses() {
		t.Errorf("%s (seed %d)", miss, *seedFlag)
	}
	failoverResults = append(failoverResults, r)
}

// setAside removes from the history what a failover may lose, so that the validators judge
// the rest: acknowledged writes of which nothing is in the store, and deliveries of messages
// that are not there.
func (h *history) setAside(r *failoverResult) {
	ids := make(map[uuid.UUID]bool)
	there := make(map[delivery]bool)
	for i := range h.store {
		ids[h.store[i].id] = true
		there[h.store[i].delivery()] = true
	}
	h.ops = slices.DeleteFunc(h.ops, func(o *op) bool {
		lost := o.outcome == acked && !slices.ContainsFunc(o.ids, func(id uuid.UUID) bool { return ids[id] })
		if lost {
			r.lost += len(o.ids)
		}
		return lost
	})
	for _, s := range h.subscribers {
		lost := make(map[missed]bool)
		for _, i := range s.incarnations {
			i.deliveries = slices.DeleteFunc(i.deliveries, func(d delivery) bool {
				if there[d] {
					return false
				}
				lost[missed{s.position(d.position, d.global), d.id}] = true
				return true
			})
		}
		r.handled += len(lost)
		for m := range lost {
			if !s.missing[m] {
				r.unreported++
			}
		}
		for i := range h.store {
			m := missed{s.position(h.store[i].position, h.store[i].global), h.store[i].id}
			if s.missing[m] && !lost[m] {
				r.misreported++
			}
		}
	}
}

// failoverResults are the results of this run.
var failoverResults []*failoverResult

// endFailovers prints the report lines, and writes the section of the page if -page is set.
func endFailovers(ok bool) error {
	for _, r := range failoverResults {
		fmt.Println(r.line())
	}
	if len(failoverResults) == 0 || *page == "" || !ok {
		return nil
	}
	return replaceSection(*page, failoverSection(failoverResults))
}

func failoverSection(results []*failoverResult) string {
	var b strings.Builder
	fmt.Fprintf(&b, `## Failover

Clusters of three nodes with Patroni, on one machine, and clients with the default options. `+"`make test-failover`"+` writes this section
after each successful run (this one: seed %d); do not edit it. [Failover](failover.md) explains what is lost when.

- Machine gone: all its processes are killed, so its connections are closed. Machine unplugged, machine frozen: no connection
  is closed, and nothing answers.
- Patroni: the time from the last write that the old primary accepted until another node accepted one.
- No ack: the longest time in which no write was acknowledged.
- Silent: the longest time in which a subscription received nothing.
- Through PL/Proxy: the cluster is one of two shards of a proxy, and what is measured is of its categories. Other shard: the longest
  time in which no write to the other shard was acknowledged. The shards share the connections of one pool.
- Unknown, refused: writes that ended with an unknown outcome, or with another error. An unknown outcome is right only for a write
  that expects a version of a stream of which messages are lost: an earlier attempt of it may still arrive.
- Lost: acknowledged messages that the new primary does not have.
- Handled: deliveries of messages that the new primary does not have. All were reported to OnFork.
- Holes: messages of the new primary that a subscription missed.

| Fault | Replication | ttl | Through | Patroni | No ack | Silent | Other shard | Messages | Unknown | Refused | Lost | Handled | Holes |
|---|---|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|
`, *seedFlag)
	for _, r := range results {
		others := "-"
		if r.others > 0 {
			others = fmt.Sprintf("%.1f s", r.others.Seconds())
		}
		fmt.Fprintf(&b, "| %s | %s | %d s | %s | %.1f s | %.1f s | %.1f s | %s | %d | %d | %d | %d | %d | %d |\n",
			faultNames[r.fault], r.mode, r.ttl, cmp.Or(r.through, "a list of hosts"), r.patroni.Seconds(), r.noAck.Seconds(), r.silent.Seconds(), others,
			r.stored, r.unknown, r.refused, r.lost, r.handled, r.holes())
	}
	return b.String()
}

var faultNames = map[string]string{
	"switchover": "planned switchover",
	"crash":      "PostgreSQL killed",
	"gone":       "machine gone",
	"unplugged":  "machine unplugged",
	"frozen":     "machine frozen, later thawed",
}
