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

// A place is one of the messages of an exchange.
type place struct {
	from    side
	message string
	nth     int // of its kind in the exchange
}

// record returns the places of what f makes the sides say.
func (p *proxy) record(f func()) (places []place) {
	seen := make(map[place]int)
	p.script(func(from side, message string) verdict {
		kind := place{from: from, message: message}
		seen[kind]++
		kind.nth = seen[place{from: from, message: message}]
		places = append(places, kind)
		return verdict{}
	})
	f()
	p.script(nil)
	return places
}

// TestCutWrites breaks the connection before and after each message of a write, of
// either side and in several ways. Each time the write happens once, or not at all,
// and the answer says which.
func TestCutWrites(t *testing.T) {
	pgtest.NeedTime(t)
	url := database(t)
	admin := openPool(t, url, 2)
	defer admin.Close()
	h := newHistory()
	w := &world{history: h, seed: *seedFlag}
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
			pool := openPool(t, p.url(), 1, mdb.Configure, func(cfg *pgxpool.Config) {
				if shape.mode != 0 {
					cfg.ConnConfig.DefaultQueryExecMode = shape.mode
				}
				cfg.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false }
			})
			defer pool.Close()
			patient, err := mdb.New(pool, append(shape.options, mdb.WithRetry(mdb.RetryPolicy{MinDelay: time.Millisecond}))...)
			if err != nil {
				t.Fatal(err)
			}
			hasty, err := mdb.New(pool, append(shape.options, single)...)
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
					if err != nil { // of the connection that was broken last
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
					h.end(o, refused, nil)
				}
				w.resolve(t.Context(), s)
			}
			warm := func() { // with a new connection, the statements prepared
				for range 2 {
					write(patient, category.Stream("warm"))
				}
			}
			warm()
			var places []place
			places = p.record(func() { write(patient, category.Stream("1")) })
			if shape.expects { // the exchange of the version comes first
				first := slices.Index(places, place{server, "ReadyForQuery", 1}) + 1
				places = places[first:]
			}
			before := p.hits.Load()
			ways := []verdict{{cut, false}, {cut, true}, {reset, false}, {halfClose, false}, {halfClose, true}}
			rng := rand.New(rand.NewPCG(*seedFlag, 6))
			some := scaled(2, len(ways)) // at each place
			for range scaled(1, 5) {
				for _, at := range places {
					rng.Shuffle(len(ways), func(i, j int) { ways[i], ways[j] = ways[j], ways[i] })
					for _, v := range ways[:some] {
						warm()
						p.script(once(at.from, at.message, at.nth, v))
						write(patient, category.Stream("1"))
						p.script(nil)
					}
					warm()
					p.script(once(at.from, at.message, at.nth, verdict{cut, true}))
					write(hasty, category.Stream("2"))
					p.script(nil)
				}
			}
			hits := int(p.hits.Load() - before)
			if want := (some + 1) * len(places) * scaled(1, 5); hits != want {
				t.Errorf("%d faults, want %d at %v", hits, want, places)
			}
			faults += hits
		})
	}
	store, err := readStore(t.Context(), admin, categories)
	if err != nil {
		t.Fatal(err)
	}
	w.stored = len(store)
	w.judge(t, "T1", faults, validate(h, store))
}

// TestCutReads breaks the connection before each row of a page, page after page.
func TestCutReads(t *testing.T) {
	pgtest.NeedTime(t)
	url := database(t)
	p := newProxy(t, url)
	w := newWorld(url, p.url(), *seedFlag)
	w.messages, w.batch, w.chain, w.conns = scaled(1000, 5000), 25, false, 1
	w.categories = 1
	w.subscribe = func(w *world, category mdb.Category) []*subscriber {
		return []*subscriber{{Name: "category", Category: category, Batch: w.batch}}
	}
	row, next, cuts := 0, 1, 0
	p.script(func(from side, message string) verdict {
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
	w.judge(t, "T2", cuts, violations)
}
