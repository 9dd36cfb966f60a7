package mdbweb

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
)

// TestFormats checks how numbers, times and sizes are shown.
func TestFormats(t *testing.T) {
	t.Parallel()
	pgtest.NeedNoServer(t)
	for got, want := range map[string]string{
		number(0): "0", number(999): "999", number(1000): "1,000", number(-1234567): "−1,234,567",
		approx(7.4): "≈ 7", approx(99.6): "≈ 100", approx(123456): "≈ 120,000", approx(9_960_000): "≈ 10,000,000",
		textOfCount(count{N: 10000, More: true}): "10,000+", textOfCount(count{N: 12}): "12", textOfCount(count{N: 1234567, Estimated: true}): "≈ 1,200,000",
		age(-time.Second): "0 ms", age(999 * time.Millisecond): "999 ms", age(119 * time.Second): "119 s", age(2 * time.Minute): "2 min", age(47 * time.Hour): "47 h", age(50 * time.Hour): "2 d",
		elapsed(1500 * time.Millisecond): "1.5 s", elapsed(-time.Hour): "0 ms",
		byteSize(1023): "1023 B", byteSize(1536): "1.5 KiB", byteSize(5 << 40): "5.0 TiB", byteSize(5 << 50): "5120.0 TiB",
		percent(0): "0 %", percent(0.0001): "< 0.1 %", percent(0.054): "5.4 %", percent(1): "100 %",
		ranges(nil): "", ranges([]int{3, 1, 2, 7, 9, 8, 12}): "1–3, 7–9, 12", plural(1, "row"): "1 row", plural(1000, "row"): "1,000 rows",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// TestTree checks that a tree contains all of its JSON, in the order of its keys, and that there is none if there is too much of it.
func TestTree(t *testing.T) {
	t.Parallel()
	pgtest.NeedNoServer(t)
	for _, raw := range []string{`null`, `"a\"<>&"`, `12345678901234567890.5`, `{"b":1,"a":[true,{"c":{}},[]],"b2":"x"}`, `[]`, `[[[[1]]]]`} {
		root := tree(json.RawMessage(raw))
		if root == nil || jsonOf(root) != raw {
			t.Errorf("%s: got %+v", raw, root)
		}
	}
	for name, raw := range map[string]string{
		"deep": strings.Repeat("[", 100) + strings.Repeat("]", 100), "long": "[" + strings.Repeat("1,", 6000) + "1]", "no JSON": "{", "nothing": "",
	} {
		if root := tree(json.RawMessage(raw)); root != nil {
			t.Errorf("%s: got a tree", name)
		}
	}
}

// jsonOf returns the JSON that a tree shows.
func jsonOf(n *node) string {
	if !n.Container() {
		return n.Text
	}
	var parts []string
	for _, child := range n.Children {
		text := jsonOf(child)
		if child.Keyed {
			text = quoted(child.Key) + ":" + text
		}
		parts = append(parts, text)
	}
	if n.Kind == "object" {
		return "{" + strings.Join(parts, ",") + "}"
	}
	return "[" + strings.Join(parts, ",") + "]"
}

// TestSpread checks that the messages between probes are distributed over the time between them, and that none is lost.
func TestSpread(t *testing.T) {
	t.Parallel()
	pgtest.NeedNoServer(t)
	from := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	c := &chart{From: from, Bucket: time.Minute}
	at := func(minutes float64) time.Time { return from.Add(time.Duration(minutes * float64(time.Minute))) }
	counts := c.spread([]probe{{100, at(-5)}, {200, at(1)}, {500, at(4)}, {500, at(4)}, {600, at(3.5)}, {640, at(59.5)}, {700, at(90)}})
	if counts[0] != 100 || counts[1] != 100 || counts[2] != 100 || counts[3] != 100 || counts[4] < 100 {
		t.Errorf("got %v", counts[:5])
	}
	var sum int64
	for _, n := range counts {
		sum += n
	}
	if sum != 600 {
		t.Errorf("%d messages, want 600", sum)
	}
	if counts := c.spread(nil); counts != [buckets]int64{} {
		t.Errorf("of nothing: %v", counts)
	}
}

// TestGraph checks that each stream has a lane, up to a number of them, and that arrows go from causes to effects.
func TestGraph(t *testing.T) {
	t.Parallel()
	pgtest.NeedNoServer(t)
	f := &flow{Steps: []step{
		{Stream: "a-1", Position: 0},
		{Stream: "b-1", Position: 0, Cause: place{"a-1", 0}},
		{Stream: "a-1", Position: 1, Cause: place{"b-1", 0}},
		{Stream: "a-1", Position: 2, Cause: place{"a-1", 1}},
		{Stream: "c-1", Position: 0, Cause: place{"a-1", 9}},
		{Stream: "d-1", Position: 0, Cause: place{"d-1", 0}},
	}}
	g := graphOf(f, f.Steps[0].ID)
	if len(g.Lanes) != 4 || len(g.Rows) != 6 || len(g.Arrows) != 3 || g.Height != 6*rowHeight {
		t.Errorf("%d lanes, %d rows, %d arrows", len(g.Lanes), len(g.Rows), len(g.Arrows))
	}
	if want := "M16 28V70Q16 84 30 84H38"; g.Arrows[0].Path != want {
		t.Errorf("got %s, want %s", g.Arrows[0].Path, want)
	}
	if want := "M16 140V196"; g.Arrows[2].Path != want {
		t.Errorf("got %s, want %s", g.Arrows[2].Path, want)
	}
	many := new(flow)
	for i := range 50 {
		many.Steps = append(many.Steps, step{Stream: fmt.Sprint(i)})
	}
	if g := graphOf(many, f.Steps[0].ID); len(g.Lanes) != maxLanes || g.Width > 400 {
		t.Errorf("%d lanes, %d pixels", len(g.Lanes), g.Width)
	}
}

// TestConnected checks that a large flow is limited to what is near to the message, with all of its causes.
func TestConnected(t *testing.T) {
	t.Parallel()
	pgtest.NeedNoServer(t)
	self := step{Stream: "a-1", Position: 500, GlobalPosition: 500, Correlation: "x"}
	cause := step{Stream: "a-1", Position: 1, GlobalPosition: 1}
	candidates := make(map[place]step)
	for i := range 1000 {
		s := step{Stream: "b-1", Position: int64(i), GlobalPosition: int64(1000 + i), Correlation: "x"}
		candidates[s.place()] = s
	}
	far := step{Stream: "c-1", GlobalPosition: 900, Correlation: "y"}
	candidates[far.place()] = far
	steps, hidden := connected(&self, map[place]step{self.place(): self, cause.place(): cause}, candidates)
	if len(steps) != maxFlow || hidden != 1002-maxFlow || steps[0].GlobalPosition != 1 || steps[1].GlobalPosition != 500 || steps[2].GlobalPosition != 1000 || steps[maxFlow-1].GlobalPosition != 1000+maxFlow-3 {
		t.Errorf("%d steps, %d hidden", len(steps), hidden)
	}
}

// TestExplain checks which status errors have, and that no text of the server is shown.
func TestExplain(t *testing.T) {
	t.Parallel()
	pgtest.NeedNoServer(t)
	for status, err := range map[int]error{
		404: fmt.Errorf("a page: %w", errNotFound), 409: &consumer.ConflictError{Consumer: "c", Problem: "p"}, 400: wrongInput("w"), 403: errForeignForm,
		503: fmt.Errorf("a page: %w", context.DeadlineExceeded), 500: &pgconn.PgError{Code: "22P02", Message: "canary"},
	} {
		got, p := explain(err)
		if got != status || p.Problem == "" || p.Remedy == "" || strings.Contains(p.Problem+p.Remedy, "canary") {
			t.Errorf("%v: status %d, want %d; %+v", err, got, status, p)
		}
	}
	if got, _ := explain(&consumer.NotFoundError{Consumer: "c"}); got != 404 {
		t.Errorf("no consumer: status %d", got)
	}
	if got, p := explain(&mdb.SetupError{Problem: "p", Remedy: "r"}); got != 500 || p.Problem != "p" || p.Remedy != "r" {
		t.Errorf("a set-up: status %d, %+v", got, p)
	}
	if got, p := explain(&partlyDone{2, 5, &consumer.ConflictError{Consumer: "c", Problem: "p"}}); got != 409 || !strings.HasPrefix(p.Problem, "2 of 5 were done, then: p") || strings.Contains(p.Remedy, "Nothing was changed") {
		t.Errorf("a part: status %d, %+v", got, p)
	}
	if got, _ := explain(errors.New("canary")); got != 500 {
		t.Errorf("another error: status %d", got)
	}
}
