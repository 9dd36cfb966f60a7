package mdb_test

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/mdb"
)

// A history is a subscription that records its messages and forks.
type history struct {
	*recipient

	mu    sync.Mutex
	forks []mdb.Fork
	pause time.Duration // of OnFork
}

func recordHistory(t testing.TB, s *mdb.Store, category mdb.Category, opts ...mdb.CategorySubscribeOption) *history {
	t.Helper()
	h := new(history)
	fork := mdb.OnFork(func(_ context.Context, fork mdb.Fork) error {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.forks = append(h.forks, fork)
		<-time.After(h.pause) // a handler that takes long
		return nil
	})
	h.recipient = receiveCategory(t, s, category, append(opts, fork)...)
	return h
}

func (h *history) compareForks(t testing.TB, lost ...[]place) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.forks) != len(lost) {
		t.Fatalf("got %d forks, want %d", len(h.forks), len(lost))
	}
	for i, fork := range h.forks {
		want := make([]mdb.MissingMessage, len(lost[i]))
		for j, m := range lost[i] {
			want[j] = mdb.MissingMessage{Position: m.Global, ID: m.ID, Time: m.Time}
		}
		if !slices.Equal(fork.Missing, want) {
			t.Errorf("missing are %v, want %v", fork.Missing, want)
		}
	}
}

// fromOne compares the messages that have arrived with those of a server, from the given one on.
func (h *history) fromOne(t testing.TB, what string, want []place) {
	t.Helper()
	if got := placesOf(h.next(t, len(want))); !slices.Equal(got, want) {
		t.Fatalf("%s: got %v, want %v", what, got, want)
	}
}

// TestReplicaPromoted checks that a subscription through a replica loses nothing, and reports nothing, when the primary
// is killed and the replica becomes the primary. Reads then leave it, because it is no standby.
func TestReplicaPromoted(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	for _, way := range []string{"procedures", "direct"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			m := newMirrored(t)
			f := failover{Pair: m.Pair, category: "account", old: m.primary}
			opts := []mdb.StoreOption{often}
			if way == "direct" {
				opts = append(opts, mdb.WithDirectSQL())
			}
			s := openMirrored(t, newPool(t, m.URL()), m.replica, append(opts, m.journal.option())...)
			h := recordHistory(t, s, f.category)
			f.write(t, f.old, 50)
			h.fromOne(t, "before", selected(t, f.old, ofAccount))
			m.CatchUp(t)
			if err := m.Primary.Kill(); err != nil {
				t.Fatal(err)
			}
			before := len(selected(t, m.replica, ofAccount))
			m.Promote(t)
			f.write(t, m.replica, 50)
			h.fromOne(t, "after", selected(t, m.replica, ofAccount)[before:])
			if mdb.ReadsReplica(t.Context(), s) {
				t.Error("reads use the former replica")
			}
			h.compareForks(t)
			// Its other messages are there, whoever serves the read.
			if n, err := found(s.GetCategoryMessages(t.Context(), f.category)); n != 100 || err != nil {
				t.Errorf("got %d messages, error %v", n, err)
			}
			h.stop(t)
		})
	}
}

// TestReplicaWithoutLost checks that a subscription which has received from the primary what its replica never gets reports exactly
// these messages when the replica is promoted, and nothing before.
func TestReplicaWithoutLost(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	group := mdb.AsConsumerGroup(0, 1) // whose anchors are the heads
	for way, filters := range map[string][]mdb.CategorySubscribeOption{
		"procedures": nil, "direct": {mdb.WithBatchSize(7)}, "procedures, group": {group, mdb.WithBatchSize(7)}, "direct, group": {group},
	} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			m := newMirrored(t)
			m.notifying(t)
			relay := pgtest.NewRelay(t, m.Primary)
			f := failover{Pair: m.Pair, category: "account", old: m.primary}
			opts := []mdb.StoreOption{often, mdb.WithNotify(mdb.MaxNotifications(1_000_000))}
			if strings.HasPrefix(way, "direct") {
				opts = append(opts, mdb.WithDirectSQL())
			}
			s := openMirrored(t, newPool(t, relay.URL("postgres")), m.replica, opts...)
			h := recordHistory(t, s, f.category, filters...)
			f.write(t, f.old, 40)
			h.fromOne(t, "both", selected(t, f.old, ofAccount))
			h.untilLive(t)
			settled(t, s)
			m.Hold(t)
			f.align(t, f.old, 3)
			kept := len(selected(t, f.old, ofAccount))
			f.write(t, f.old, 40)
			lost := selected(t, f.old, ofAccount)[kept:]
			h.fromOne(t, "lost", lost) // from the primary, because of the notification
			h.compareForks(t)
			if err := m.Primary.Kill(); err != nil {
				t.Fatal(err)
			}
			m.Promote(t)
			relay.Switch(m.Standby)
			f.write(t, m.replica, 60)
			h.fromOne(t, "new", selected(t, m.replica, ofAccount)[kept:])
			h.compareForks(t, lost)
			h.stop(t)
		})
	}
}

// TestReplicaOfOldPrimary checks a replica that still follows the old primary after another standby was promoted: it has messages
// that the new primary has lost, and never gets the new ones. The subscription reports the loss that the
// primary shows, and receives the new messages.
func TestReplicaOfOldPrimary(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	m := newMirrored(t) // its standby is promoted
	m.notifying(t)
	third := pgtest.Follow(t, m.Primary)
	relay := pgtest.NewRelay(t, m.Primary)
	f := failover{Pair: m.Pair, category: "account", old: m.primary}
	s := openMirrored(t, newPool(t, relay.URL("postgres")), newPool(t, third.URL("postgres")), often, mdb.WithNotify(mdb.MaxNotifications(1_000_000)))
	h := recordHistory(t, s, f.category)
	h.mu.Lock()
	h.pause = 5 * mdb.FirstRest // after which the subscription uses the replica again
	h.mu.Unlock()
	f.write(t, f.old, 40)
	h.fromOne(t, "all", selected(t, f.old, ofAccount))
	m.Hold(t)
	f.align(t, f.old, 3)
	kept := len(selected(t, f.old, ofAccount))
	f.write(t, f.old, 20)
	lost := selected(t, f.old, ofAccount)[kept:]
	h.fromOne(t, "lost", lost)
	m.Promote(t)
	relay.Switch(m.Standby)
	f.write(t, m.replica, 50)
	fresh := selected(t, m.replica, ofAccount)[kept:]
	// The lost connection of the listener wakes the subscription, and so would any notification.
	h.fromOne(t, "new", fresh)
	h.compareForks(t, lost)
	h.stop(t)
}

// TestReplicaSwitches checks that a subscription which changes between the replica and the primary within its pages delivers
// each message once and in order, at each place at which the replica is left.
func TestReplicaSwitches(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	m := newMirrored(t)
	f := failover{Pair: m.Pair, category: "account", old: m.primary}
	f.write(t, f.old, 40)
	m.CatchUp(t)
	m.Hold(t)
	f.write(t, f.old, 20) // which only the primary has
	want := selected(t, f.old, ofAccount)
	for way, opts := range map[string][]mdb.StoreOption{"procedures": {often}, "direct": {often, mdb.WithDirectSQL()}} {
		s := m.openHeld(t, opts...)
		for leave := range 8 {
			for _, bytes := range []int{1, 500, 1 << 20} { // pages of one step, of several, and full ones
				h := recordHistory(t, s, f.category, mdb.WithBatchSize(7), mdb.WithBatchBytes(bytes))
				first := min(6*leave, 40)
				got := placesOf(h.next(t, first))
				mdb.LeaveReplica(s)
				rest := len(want) - first
				got = append(got, placesOf(h.next(t, rest))...)
				if !slices.Equal(got, want) {
					t.Errorf("%s, left after %d, %d bytes: got %v", way, first, bytes, got)
				}
				h.compareForks(t)
				h.stop(t)
				mdb.ReturnToReplica(s)
			}
		}
	}
	if n := fmt.Sprint(m.store.Stats().Forks); n != "0" {
		t.Errorf("got %s forks", n)
	}
}

// openHeld returns a store that reads from the replica although that has not caught up.
func (m *mirrored) openHeld(t testing.TB, opts ...mdb.StoreOption) *mdb.Store {
	t.Helper()
	s := newStore(t, m.primary, append(opts, mdb.WithReplica(m.replica))...)
	t.Cleanup(s.Close)
	mdb.ReturnToReplica(s)
	return s
}

// TestReplicaMoves checks that a store whose replica is promoted uses the next standby to which the address of the replica leads, although the
// connections that are open lead to the promoted one.
func TestReplicaMoves(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	m := newMirrored(t)
	var to atomic.Pointer[string]
	lead := func(s *pgtest.Server) {
		cfg, err := pgx.ParseConfig(s.TCP("postgres"))
		if err != nil {
			t.Fatal(err)
		}
		address := net.JoinHostPort(cfg.Host, fmt.Sprint(cfg.Port))
		to.Store(&address)
	}
	lead(m.Standby)
	pool := newPool(t, m.Standby.TCP("postgres"), func(cfg *pgxpool.Config) {
		cfg.ConnConfig.DialFunc = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, *to.Load())
		}
	})
	s := openMirrored(t, newPool(t, m.URL()), pool)
	stream := mdb.Category("moves").Stream("1")
	write(t, s, stream, mdb.NewMessage("Happened", 1))
	m.CatchUp(t)
	if err := m.Primary.Kill(); err != nil {
		t.Fatal(err)
	}
	m.Promote(t)
	next := pgtest.Follow(t, m.Standby)
	lead(next)
	eventually(t, m.replica, "reads use the next standby", func() bool {
		// The pools have connections to the server that was killed.
		if n, err := found(s.GetStreamMessages(t.Context(), stream)); !mdb.IsTransient(err) && (n != 1 || err != nil) {
			t.Fatalf("got %d messages, error %v", n, err)
		}
		return mdb.ReadsReplica(t.Context(), s)
	})
	w := write(t, s, stream, mdb.NewMessage("Happened", 2))
	if err := s.AwaitWrite(t.Context(), stream, w); err != nil {
		t.Fatal(err)
	}
	if n, err := found(s.GetStreamMessages(t.Context(), stream)); n != 2 || err != nil {
		t.Errorf("got %d messages, error %v", n, err)
	}
}
