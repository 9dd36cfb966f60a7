package chaos

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
)

// TestFloors checks that a failover that misses a floor is found, for each floor, and that
// one that reaches all of them passes.
func TestFloors(t *testing.T) {
	t.Parallel()
	const patroni = 20 * time.Second
	for name, tt := range map[string]struct {
		worsen func(r *failoverResult)
		found  string
	}{
		"all reached":                     {func(*failoverResult) {}, ""},
		"as long as allowed":              {func(r *failoverResult) { r.noAck, r.silent = patroni+time.Second, patroni+2*time.Second }, ""},
		"no acknowledgement":              {func(r *failoverResult) { r.noAck = patroni + 1001*time.Millisecond }, "no acknowledgement"},
		"silence":                         {func(r *failoverResult) { r.silent = patroni + 2001*time.Millisecond }, "received nothing"},
		"a dead host":                     {func(r *failoverResult) { r.noAck, r.deadHosts = patroni+3*time.Second, 1 }, ""},
		"longer than a dead host":         {func(r *failoverResult) { r.noAck, r.deadHosts = patroni+3001*time.Millisecond, 1 }, "no acknowledgement"},
		"the other shard waits":           {func(r *failoverResult) { r.others = 1001 * time.Millisecond }, "other shard"},
		"the other shard waits, frozen":   {func(r *failoverResult) { r.others, r.fault = 10*time.Second, "frozen" }, ""},
		"an unknown outcome":              {func(r *failoverResult) { r.unknown = 1 }, "unknown outcome"},
		"an unknown outcome after a loss": {func(r *failoverResult) { r.unknown, r.ahead, r.lost = 1, 1, 500 }, ""},
		"another unknown outcome":         {func(r *failoverResult) { r.unknown, r.ahead, r.lost = 2, 1, 500 }, "unknown outcome"},
		"a refused write":                 {func(r *failoverResult) { r.refused = 1 }, "refused"},
		"an unknown outcome, frozen":      {func(r *failoverResult) { r.unknown, r.fault = 1, "frozen" }, ""},
		"lost, asynchronous":              {func(r *failoverResult) { r.lost, r.handled = 1000, 1000 }, ""},
		"lost, synchronous":               {func(r *failoverResult) { r.lost, r.mode = 1, "sync" }, "lost"},
		"handled and not reported":        {func(r *failoverResult) { r.handled, r.unreported = 2, 1 }, "not reported"},
		"reported, and in the store":      {func(r *failoverResult) { r.misreported = 1 }, "reported as missing"},
		"not delivered":                   {func(r *failoverResult) { r.violations = map[string]int{"Reliable": 1} }, "Reliable"},
		"stored though its write failed":  {func(r *failoverResult) { r.violations = map[string]int{"NoGhost": 1} }, "NoGhost"},
	} {
		r := &failoverResult{fault: "gone", mode: "async", patroni: patroni, noAck: patroni, silent: patroni}
		tt.worsen(r)
		misses := r.misses()
		if len(misses) == 0 != (tt.found == "") || !strings.Contains(strings.Join(misses, "\n"), tt.found) {
			t.Errorf("%s: got %q, want %q", name, misses, tt.found)
		}
	}
}

// TestSetAside checks what counts as lost, and that it is not judged again.
func TestSetAside(t *testing.T) {
	t.Parallel()
	there, lost, half := uuid.New(), uuid.New(), uuid.New()
	sub := &subscriber{Name: "category", Category: "account", missing: map[missed]bool{{2, lost}: true, {1, there}: true}}
	h := newHistory()
	h.store = []stored{{id: there, stream: "account-1", position: 0, global: 1}}
	h.subscribers = []*subscriber{sub}
	h.ops = []*op{
		{name: "there", ids: []uuid.UUID{there}, outcome: acked},
		{name: "lost", ids: []uuid.UUID{lost}, outcome: acked},
		{name: "in part", ids: []uuid.UUID{there, half}, outcome: acked},
		{name: "pending", ids: []uuid.UUID{uuid.New()}},
	}
	sub.incarnations = []*incarnation{{deliveries: []delivery{
		{there, "account-1", 0, 1}, {lost, "account-1", 1, 2}, {half, "account-1", 2, 3},
	}}}
	var r failoverResult
	h.setAside(&r)
	if r.lost != 1 || r.handled != 2 || r.unreported != 1 || r.misreported != 1 {
		t.Errorf("got %+v, want 1 lost, 2 handled, 1 of them unreported, and 1 misreported", r)
	}
	if len(h.ops) != 3 || len(sub.incarnations[0].deliveries) != 1 {
		t.Errorf("%d ops and %d deliveries are left, want 3 and 1", len(h.ops), len(sub.incarnations[0].deliveries))
	}
}

// TestSection checks that each of the two runs that write the page keeps what the other has
// written.
func TestSection(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "page.md")
	if err := os.WriteFile(path, []byte("Table\n"+sectionBegin+"old\n"+sectionEnd), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := replaceSection(path, "new\n"); err != nil {
		t.Fatal(err)
	}
	want := sectionBegin + "new\n" + sectionEnd
	if got, err := keepSection(path); err != nil || got != want {
		t.Errorf("got section %q, %v, want %q", got, err, want)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "Table\n"+want {
		t.Errorf("got page %q, %v", text, err)
	}
	if err := os.WriteFile(path, []byte("Table\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := replaceSection(path, "new\n"); err == nil {
		t.Error("a page without the marks is accepted")
	}
}
