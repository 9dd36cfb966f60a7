package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/messagedb-go/messagedb/bench/internal/figures"
	"github.com/messagedb-go/messagedb/internal/pgtest"
)

// TestRun checks a small run: that what can be known exactly is right, and that each table has its rows.
func TestRun(t *testing.T) {
	pgtest.NeedPrograms(t)
	b := &bench{messages: 1000, rounds: 1, turn: 200 * time.Millisecond, target: target{rate: 1e6, messages: 1e12, cores: 16, spare: 0.5, disk: 8e12}}
	if err := b.check(); err != nil {
		t.Skip(err)
	}
	r, err := b.results(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	least := float64(len(data) + len(metadata))
	for name, v := range map[string]volume{"random": r.random, "ordered": r.ordered} {
		// The heap has the JSON, and each entry of the indexes at least its address and key.
		if v.relations[0] < least || v.bytes() > 5*least || v.wal < least || v.vacuum <= 0 {
			t.Errorf("%s: %+v", name, v)
		}
		for i, bytes := range v.relations[1:] {
			if bytes < 16 || bytes >= v.relations[0] {
				t.Errorf("%s: %s takes %v bytes", name, relations[i+1], bytes)
			}
		}
	}
	if once := r.ways[0].median().wal; r.afterCheckpoint < 1.2*once {
		t.Errorf("%v bytes of WAL after a checkpoint, %v before it", r.afterCheckpoint, once)
	}
	for i, w := range ways {
		for _, u := range []used{r.ways[i].median(), r.slow[i].median()} {
			if want := 1 / float64(w.batch); u.wal < least || u.rate <= 0 || w.grouped && w.categories == 1 && u.xids >= want || !w.grouped && (u.xids < want || u.xids > 1.01*want) {
				t.Errorf("%s: %+v", w.name, u)
			}
		}
	}
	var cpu float64
	for i, route := range r.routes {
		u := r.shards[i].median()
		cpu += u.cpu // the system counts in hundredths of a second, which one short turn may not take
		if want := 1 / float64(route.batch); u.rate <= 0 || u.xids < want || u.xids > 1.01*want {
			t.Errorf("%+v: %+v", route, u)
		}
	}
	if cpu <= 0 {
		t.Error("no route takes CPU")
	}
	tables, err := b.tables(r)
	if err != nil {
		t.Fatal(err)
	}
	for i, rows := range []int{len(relations) + 5, len(ways), len(r.routes), 14} {
		if got := strings.Count(tables[i].text, "\n| "); got != rows {
			t.Errorf("%d rows, want %d:\n%s", got, rows, tables[i].text)
		}
	}
}

// TestEvenCategories checks that each shard gets the messages of as many categories, whatever the number of shards is.
func TestEvenCategories(t *testing.T) {
	t.Parallel()
	for _, shards := range shardCounts {
		of := make([]int, shards)
		for _, c := range categories {
			of[shardOf(c, shards)]++
		}
		for shard, n := range of {
			if n != writers/shards {
				t.Errorf("shard %d of %d has %d categories", shard, shards, n)
			}
		}
	}
}

// TestPlan checks the arithmetic of the plan with figures that can be computed by hand.
func TestPlan(t *testing.T) {
	t.Parallel()
	plan := target{rate: 1e6, messages: 1e12, cores: 10, spare: 0.5, disk: 10e12}
	v := volume{relations: []float64{500, 300}, vacuum: 2 * time.Second}
	single := planned{"single", used{cpu: 500e-6, wal: 1000, xids: 1}}
	got := plan.needs(single, v, 100_000)
	if want := (need{server: 10_000, shards: 100, wal: 1e9, xids: 10_000, vacuum: 0.2}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	text := plan.planBlock([]planned{single, {"batches", used{cpu: 30e-6, wal: 900, xids: 0.05}}}, v, 100_000)
	for _, row := range []string{
		"| server CPU a message | 500 µs | 30 µs |",
		"| **shards for 1,000,000 messages a second**, without standbys | 100 | 6 |",
		"| WAL of all shards | 1.0 GB/s | 900 MB/s |",
		"| WAL of a shard | 10 MB/s | 150 MB/s |",
		"| disk for the messages of a day, one copy | 69 TB | 69 TB |",
		"| time until there are 10¹² messages | 12 days | 12 days |",
		"| **disk for 10¹² messages**, one copy | 800 TB | 800 TB |",
		"| **shards that hold them**, with 10 TB each | 80 | 80 |",
		"of 200 million | 5.6 hours | 6.7 hours |",
		"| the same with 1 billion | 28 hours | 33 hours |",
		"| time to use 2³¹ transaction IDs | 2.5 days | 3.0 days |",
		"new pages only | 20 % | 333 % |",
	} {
		if !strings.Contains(text, row) {
			t.Errorf("got:\n%s\nwant it to contain %q", text, row)
		}
	}
}

// TestDoc checks that docs/scaling.md has a place for each table, and that a newer one replaces it.
func TestDoc(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/scaling.md")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "scaling.md")
	if err := os.WriteFile(file, page, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, block := range []string{"old\n", "new\n"} {
		for _, name := range tableNames {
			if err := figures.Put(file, docBegin(name), docEnd(name), block); err != nil {
				t.Fatal(err)
			}
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range tableNames {
		if !strings.Contains(string(got), docBegin(name)+"new\n"+docEnd(name)) {
			t.Errorf("there is no new table of %s:\n%s", name, got)
		}
	}
}
