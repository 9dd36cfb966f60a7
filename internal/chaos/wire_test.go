package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// A cutPoint is one message of an exchange.
type cutPoint struct {
	from    side
	message string
	nth     int // of its kind in the exchange
}

// record returns the cut points of the exchange that f causes.
func (p *proxy) record(f func()) (points []cutPoint) {
	p.onMessage(recording(&points))
	f()
	p.onMessage(nil)
	return points
}

// recording returns a function for onMessage that records cut points.
func recording(points *[]cutPoint) func(side, string) verdict {
	seen := make(map[cutPoint]int)
	return func(from side, message string) verdict {
		kind := cutPoint{from: from, message: message}
		seen[kind]++
		kind.nth = seen[kind]
		*points = append(*points, kind)
		return verdict{}
	}
}

// TestCutWrites checks that a write happens once or not at all, and that its result
// says which, if the connection breaks before or after any message of it, of either
// side, in several ways.
func TestCutWrites(t *testing.T) {
	pgtest.NeedTime(t)
	url := database(t)
	admin := openPool(t, url, 2)
	defer admin.Close()
	h := newHistory()
	w := &workload{history: h, seed: *seedFlag}
	var categories []string
	faults := 0
	for _, shape := range []struct {
		name     string
		messages int
		expects  bool
		mode     pgx.QueryExecMode
		options  []mdb.StoreOption
	}{
		{name: "one", messages: 1},
		{name: "one, expecting", messages: 1, expects: true},
		{name: "batch", messages: 3},
		{name: "batch, expecting", messages: 3, expects: true},
		{name: "direct batch", messages: 3, options: []mdb.StoreOption{mdb.WithDirectSQL()}},
		{name: "direct batch, expecting", messages: 3, expects: true, options: []mdb.StoreOption{mdb.WithDirectSQL()}},
		{name: "one, exec", messages: 1, mode: pgx.QueryExecModeExec},
		{name: "one, simple", messages: 1, expects: true, mode: pgx.QueryExecModeSimpleProtocol},
	} {
		t.Run(shape.name, func(t *testing.T) {
			p := newProxy(t, url)
			pool := openPool(t, p.url(), 1, configure, func(cfg *pgxpool.Config) {
				if shape.mode != 0 {
					cfg.ConnConfig.DefaultQueryExecMode = shape.mode
				}
				cfg.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false }
			})
			defer pool.Close()
			retrying, err := mdb.New(pool, append(shape.options, mdb.WithRetry(mdb.RetryPolicy{MinDelay: time.Millisecond}))...)
			if err != nil {
				t.Fatal(err)
			}
			singleTry, err := mdb.New(pool, append(shape.options, noRetry)...)
			if err != nil {
				t.Fatal(err)
			}
			category := mdbtest.Category("cut")
			categories = append(categories, string(category))
			n := 0
			write := func(s *mdb.Store, stream mdb.StreamName) {
				n++
				o := &op{name: fmt.Sprint(shape.name, n), stream: stream}
				if shape.expects {
					version, err := s.StreamVersion(t.Context(), stream)
					if err != nil { // on the connection that was cut before
						version, err = s.StreamVersion(t.Context(), stream)
					}
					if err != nil {
						t.Fatal(err)
					}
					o.expected = &version
				}
				for range shape.messages {
					o.ids = append(o.ids, uuid.New())
				}
				h.send(o)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				written, err := writeByMDB(ctx, s, o)
				h.met(err)
				switch unknown := (*mdb.UnknownOutcomeError)(nil); {
				case err == nil:
					h.end(o, acked, written)
				case errors.As(err, &unknown):
					o.unknown = true
				default:
					h.end(o, failed, nil)
				}
				w.resolve(t.Context(), s)
			}
			warm := func() { // opens a connection and prepares the statements
				for range 2 {
					write(retrying, category.Stream("warm"))
				}
			}
			warm()
			points := p.record(func() { write(retrying, category.Stream("1")) })
			if shape.expects { // skip the read of the version, which comes first
				first := slices.Index(points, cutPoint{server, "ReadyForQuery", 1}) + 1
				points = points[first:]
			}
			before := p.injected.Load()
			ways := []verdict{{cut, false}, {cut, true}, {reset, false}, {halfClose, false}, {halfClose, true}}
			rng := rand.New(rand.NewPCG(*seedFlag, 6))
			some := scaled(2, len(ways)) // at each cut point
			for range scaled(1, 5) {
				for _, at := range points {
					rng.Shuffle(len(ways), func(i, j int) { ways[i], ways[j] = ways[j], ways[i] })
					for _, v := range ways[:some] {
						warm()
						p.onMessage(onNth(at.from, at.message, at.nth, v))
						write(retrying, category.Stream("1"))
						p.onMessage(nil)
					}
					warm()
					p.onMessage(onNth(at.from, at.message, at.nth, verdict{cut, true}))
					write(singleTry, category.Stream("2"))
					p.onMessage(nil)
				}
			}
			injected := int(p.injected.Load() - before)
			if want := (some + 1) * len(points) * scaled(1, 5); injected != want {
				t.Errorf("%d faults, want %d at %v", injected, want, points)
			}
			faults += injected
		})
	}
	store, err := readStore(t.Context(), admin, categories)
	if err != nil {
		t.Fatal(err)
	}
	w.store = store
	w.evaluate(t, "T1", faults, validate(h, store))
}

// TestCutReads checks a subscription whose connection breaks before each row of a page
// in turn.
func TestCutReads(t *testing.T) {
	pgtest.NeedTime(t)
	url := database(t)
	p := newProxy(t, url)
	w := newWorkload(url, p.url(), *seedFlag)
	w.messages, w.batch, w.all, w.chain, w.conns = scaled(1000, 5000), 25, false, false, 1
	w.categories = 1
	w.subscribe = func(w *workload, category mdb.Category) []*subscriber {
		return []*subscriber{{Name: "category", Category: category, Batch: w.batch}}
	}
	row, next, cuts := 0, 1, 0
	p.onMessage(func(from side, message string) verdict {
		switch {
		case from == client || cuts == 200:
		case message == "ReadyForQuery":
			row = 0
		case message == "DataRow":
			if row++; row >= 2 && row == next { // a write has one row
				row, cuts = 0, cuts+1
				return verdict{do: cut}
			}
			if row == 2 {
				next = 2 + (next-1)%w.batch // one row further on each page
			}
		}
		return verdict{}
	})
	violations := w.run(t, nil)
	if cuts < 20 {
		t.Errorf("%d cuts, want more", cuts)
	}
	w.evaluate(t, "T2", cuts, violations)
}
