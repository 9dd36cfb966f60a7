package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/messagedb-go/messagedb/bench/internal/pgserver"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
)

const (
	groupedName       = "mdb, WithGroupCommit"
	groupedDirectName = groupedName + ", direct SQL"
	fewName           = ", pool of 4"

	groupedWriters = 64 // also the size of the pools
	slowSuffix     = ", commits delayed by 2 ms"
	officialSuffix = ", on Message DB's own SQL"
)

// groupedStores are stores on a database, on a pool of one connection for each writer.
type groupedStores struct {
	suffix string // of the names of its cases
	plain  *mdb.Store
	stores []namedStore
}

type namedStore struct {
	name  string
	store *mdb.Store
}

// addGrouped opens the stores. Those on the database slow commit two milliseconds late, as with a
// network between the server and its disk or standby. In the database refusing, a trigger refuses
// messages of one type.
func (e *environment) addGrouped(ctx context.Context) error {
	for name, prepare := range map[string]string{
		"slow": `ALTER DATABASE slow SET commit_delay = 2000; ALTER DATABASE slow SET commit_siblings = 0`,
		"refusing": `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
			CREATE TRIGGER refuse BEFORE INSERT ON message_store.messages FOR EACH ROW WHEN (NEW.type = '` + refusedType + `') EXECUTE FUNCTION refuse()`,
	} {
		conn, err := e.create(ctx, name, testdb.InstallOurs)
		if err != nil {
			return err
		}
		_, err = conn.Exec(ctx, prepare)
		if err := errors.Join(err, conn.Close(ctx)); err != nil {
			return err
		}
	}
	databases := []struct{ name, suffix string }{{"ours", ""}, {"slow", slowSuffix}, {"refusing", refusedSuffix}}
	if testdb.Official() {
		databases = append(databases, struct{ name, suffix string }{"official", officialSuffix})
	}
	var err error
	for _, d := range databases {
		g := groupedStores{suffix: d.suffix}
		open := func(connections int, opts ...mdb.ConnectOption) (s *mdb.Store) {
			if err != nil {
				return nil
			}
			if s, err = mdb.Connect(ctx, pgserver.PoolURL(e.server.TCP(d.name), connections), opts...); err == nil {
				e.close = append(e.close, s.Close)
			}
			return s
		}
		g.plain = open(groupedWriters)
		g.stores = []namedStore{
			{groupedName, open(groupedWriters, mdb.WithGroupCommit())},
			{groupedDirectName, open(groupedWriters, mdb.WithGroupCommit(), mdb.WithDirectSQL())},
			{groupedName + fewName, open(4, mdb.WithGroupCommit())},
			{groupedDirectName + fewName, open(4, mdb.WithGroupCommit(), mdb.WithDirectSQL())},
		}
		if err != nil {
			return err
		}
		e.groups = append(e.groups, g)
	}
	return nil
}

func groupedCase(categories, writers int, suffix string) string {
	into := "one category"
	if categories > 1 {
		into = fmt.Sprintf("%d categories", categories)
	}
	return fmt.Sprintf("Write 1 message to %s, by %d writers%s", into, writers, suffix)
}

const (
	conflictsSuffix = ", 5 % with an ID that is taken, 5 % after a lost race"
	refusedSuffix   = ", 1 % refused by a trigger"
	refusedType     = "Refused"

	groupedEachCase = "WriteEach, 100 messages to as many streams of one category"
)

// grouped compares writes that wait for each other with those that are sent together.
func (b *builder) grouped() {
	for _, g := range b.e.groups {
		writers := chartWriters
		switch g.suffix {
		case "":
		case refusedSuffix:
			writers = []int{groupedWriters}
		default:
			writers = []int{8, groupedWriters}
		}
		for _, n := range writers {
			b.groupedCase(g, groupedCase(1, n, g.suffix), n, func(s *mdb.Store, category string) func(context.Context) error {
				return writesTo(s, names(category+"-%[2]d"), g.suffix == refusedSuffix)
			})
		}
	}
	ours := b.e.groups[0]
	for _, n := range []int{8, groupedWriters} {
		b.groupedCase(ours, groupedCase(seedCategories, n, ""), n, func(s *mdb.Store, category string) func(context.Context) error {
			return writesTo(s, names(category+"%[1]d-%[2]d"), false)
		})
	}
	b.groupedCase(ours, groupedCase(1, groupedWriters, conflictsSuffix), groupedWriters, b.conflicting)
	b.groupedCase(ours, groupedEachCase, 1, func(s *mdb.Store, category string) func(context.Context) error {
		return writesEach(s, names(category+"-%[2]d"), 100)
	})
}

// groupedCase adds a case with a variant for each store. The clients of other libraries take part
// in the cases of one category that fails nothing.
func (b *builder) groupedCase(g groupedStores, name string, writers int, op func(s *mdb.Store, category string) func(context.Context) error) {
	variants := []variant{{name: proceduresName, op: op(g.plain, b.category())}}
	for _, s := range g.stores {
		variants = append(variants, variant{name: s.name, op: op(s.store, b.category())})
	}
	if name == groupedCase(1, writers, "") {
		for _, rival := range []string{rawName, pgxName, stdlibOnce} {
			for i, c := range b.e.clients {
				if b.e.names[i] == rival {
					stream := names(b.category() + "-%[2]d")
					variants = append(variants, variant{name: rival, op: func(ctx context.Context) error { return c.write(ctx, stream(), payload) }})
				}
			}
		}
	}
	b.add(benchCase{name: name, messages: 1, workers: writers, variants: variants})
}

// category returns the name of a category that nothing else uses.
func (b *builder) category() string { return fmt.Sprintf("grouped%dx", b.streams.Add(1)) }

// writesTo returns an op that writes a message, of which a trigger may refuse one of a hundred.
func writesTo(s *mdb.Store, stream func() string, refused bool) func(context.Context) error {
	var n atomic.Int64
	return func(ctx context.Context) error {
		m := mdb.NewMessage("Deposited", payload)
		fails := refused && n.Add(1)%100 == 0
		if fails {
			m.Type = refusedType
		}
		_, err := s.WriteMessage(ctx, mdb.StreamName(stream()), m)
		if fails && err != nil && !errors.As(err, new(*mdb.UnknownOutcomeError)) {
			return nil
		}
		return err
	}
}

// conflicting returns an op that, of twenty times, once writes an ID that is taken, and once
// expects a version that the stream no longer has.
func (b *builder) conflicting(s *mdb.Store, category string) func(context.Context) error {
	var n atomic.Int64
	stream := names(category + "-%[2]d")
	taken := mdb.NewMessage("Deposited", payload)
	return func(ctx context.Context) error {
		m, opts := mdb.NewMessage("Deposited", payload), []mdb.WriteOption(nil)
		to := mdb.StreamName(stream())
		i := n.Add(1)
		switch i % 20 {
		case 7:
			m.ID = taken.ID
		case 13:
			to, opts = mdb.StreamName(category+"-first"), []mdb.WriteOption{mdb.ExpectNoStream()}
		}
		_, err := s.WriteMessage(ctx, to, m, opts...)
		if i%20 == 7 && errors.As(err, new(*mdb.DuplicateIDError)) || i%20 == 13 && errors.As(err, new(*mdb.WrongVersionError)) {
			return nil
		}
		return err
	}
}

// groupedBounds are the least that WithGroupCommit gains, and the most that it costs.
var groupedBounds = func() (bounds []bound) {
	for _, way := range []struct {
		name               string
		one, slow, refused float64
	}{{groupedName, 5, 15, 2.5}, {groupedDirectName, 8, 18, 4}} {
		at64 := func(suffix, what string, least float64, of func(sample) float64) bound {
			return bound{what: what + ", mdb ÷ " + strings.TrimPrefix(way.name, "mdb, "), inCase: groupedCase(1, groupedWriters, suffix), slow: proceduresName, fast: way.name, least: least, of: of}
		}
		bounds = append(
			bounds,
			at64("", "64 writers", way.one, nil),
			at64("", "64 writers, median of a call", 8, medianTime),
			at64(slowSuffix, "64 writers, delayed commits", way.slow, nil),
			at64(conflictsSuffix, "64 writers, conflicts", 0.7*way.one, nil),
			at64(refusedSuffix, "64 writers, refusals", way.refused, nil),
			bound{what: "1 writer, mdb ÷ " + way.name, inCase: groupedCase(1, 1, ""), slow: proceduresName, fast: way.name, least: 0.97},
			bound{what: "WriteEach of 100, mdb ÷ " + way.name, inCase: groupedEachCase, slow: proceduresName, fast: way.name, least: 5},
			bound{what: "16 categories, 8 writers, mdb ÷ " + way.name, inCase: groupedCase(seedCategories, 8, ""), slow: proceduresName, fast: way.name, least: 0.95},
		)
	}
	return bounds
}()
