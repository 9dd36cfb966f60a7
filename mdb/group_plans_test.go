package mdb_test

import (
	"fmt"
	"maps"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
)

// TestGroupPlans checks the plans by which the server executes groups of 1, 2 and 1,000 writes, with JIT and by custom and
// generic plans, with statistics and without: it looks for IDs and versions in their indexes, also within the functions, decides
// about the writes before it does any, and does them in order.
func TestGroupPlans(t *testing.T) {
	t.Parallel()
	onGroups(t, func(t *testing.T, way ...mdb.StoreOption) {
		url := testdb.New(t)
		admin := newPool(t, url, oneConnection)
		fill(t, admin)
		jit := value[bool](t, admin, `SELECT pg_jit_available()`)
		for _, statistics := range []bool{false, true} {
			if testing.Short() && !statistics {
				continue // each group takes the time to compile its statement
			}
			if statistics {
				exec(t, admin, "VACUUM ANALYZE message_store.messages")
			}
			for _, mode := range []string{"custom", "generic"} {
				var plans planLog
				pool := newPool(t, url, oneConnection, plans.attach, parameter("plan_cache_mode", "force_"+mode+"_plan"), parameters(withJIT))
				s := newStore(t, pool, way...)
				mdb.GroupAll(s)
				for _, n := range []int{1, 2, 1000} {
					plans.take()
					wantInOrder(t, s, mdb.Category("common3").Stream(fmt.Sprint(mode, statistics, n)), n)
					name := fmt.Sprintf("%d writes, a %s plan, statistics: %t", n, mode, statistics)
					checkGroupPlans(t, name, n, jit, plans.take())
				}
				plans.take()
				if n := value[int64](t, pool, `SELECT `+mode+`_plans FROM pg_prepared_statements WHERE statement LIKE 'WITH RECURSIVE message AS%'`); n != 4 {
					t.Errorf("got %d executions by a %s plan, want 4, because 1,000 writes and those that fail are two groups", n, mode)
				}
			}
		}
	})
}

// scansOfMessages finds what reads the table of messages, and how.
var scansOfMessages = regexp.MustCompile(`(?m)^.*?(\w[\w ]* Scan[\w ]*?)(?: using (\w+))? on (messages\w*)\b`)

// checkGroupPlans checks the plans of a group of n writes, and of the statements in the functions that it calls.
func checkGroupPlans(t *testing.T, name string, n int, jit bool, plans []string) {
	t.Helper()
	groups := 0
	used := make(map[string]bool)
	for _, plan := range plans {
		if strings.Contains(plan, "SELECT position FROM message_store.messages WHERE stream_name = $1 ORDER BY") {
			continue // by wantInOrder
		}
		for _, scan := range scansOfMessages.FindAllStringSubmatch(plan, -1) {
			used[scan[2]] = true
			if scan[2] != "messages_id" && scan[2] != "messages_stream" {
				t.Errorf("%s: %s reads the messages without the indexes of IDs and versions:\n%s", name, scan[1], plan)
			}
		}
		if !strings.Contains(plan, "WITH RECURSIVE message AS") {
			continue
		}
		groups++
		if strings.Contains(plan, "Gather") {
			t.Errorf("%s: want no parallel workers:\n%s", name, plan)
		}
		if compiled := strings.Contains(plan, "\nJIT:"); compiled != jit {
			t.Errorf("%s: got a plan that is compiled: %t, want %t:\n%s", name, compiled, jit, plan)
		}
		if !groupShape.MatchString(plan) {
			t.Errorf("%s: want the writes in the order of a Sort that is above all decisions:\n%s", name, plan)
		}
	}
	if want := 1 + n/1000; groups != want {
		t.Errorf("%s: got %d groups, want %d", name, groups, want)
	}
	if !used["messages_id"] || !used["messages_stream"] {
		t.Errorf("%s: got indexes %v, want those of IDs and versions:\n%s", name, used, strings.Join(plans, "\n\n"))
	}
}

// groupShape is the part of a plan that does the writes. They are sorted, so that all of them are decided before the first is done.
// Nothing is between the Sort and what writes.
var groupShape = regexp.MustCompile(`(?:Insert on messages .*\n|Subquery Scan on written .*\n *->  Subquery Scan on c .*\n)(?: *->  Subquery Scan on .*\n)? *->  Sort .*\n *Sort Key: m(?:_\d+)?\.index\n`)

// withJIT makes the server compile the statement of a group, whatever it costs. The statements in functions cost less, and
// are not compiled each time.
var withJIT = map[string]string{"jit": "on", "jit_above_cost": "50", "jit_inline_above_cost": "0", "jit_optimize_above_cost": "0"}

func parameters(settings map[string]string) func(*pgxpool.Config) {
	return func(cfg *pgxpool.Config) { maps.Copy(cfg.ConnConfig.RuntimeParams, settings) }
}

// A planLog receives the plans of the statements that connections execute, also of those in functions.
type planLog struct {
	mu    sync.Mutex
	plans []string
}

func (l *planLog) attach(cfg *pgxpool.Config) {
	parameters(map[string]string{
		"session_preload_libraries": "auto_explain", "auto_explain.log_min_duration": "0", "auto_explain.log_level": "notice",
		"auto_explain.log_nested_statements": "on",
	})(cfg)
	cfg.ConnConfig.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.plans = append(l.plans, n.Message)
	}
}

// take returns the plans since the last call.
func (l *planLog) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	plans := l.plans
	l.plans = nil
	return plans
}
