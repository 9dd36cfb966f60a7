package main_test

import (
	"context"
	"net"
	"os"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
)

// TestRunbooks checks that the commands of docs/runbooks.md, run in their order, print what the page says. Comments on the
// page, which readers do not see, say what programs do in between.
func TestRunbooks(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/runbooks.md")
	if err != nil {
		t.Fatal(err)
	}
	s := newServices(t)
	commands := 0
	for _, part := range regexp.MustCompile("(?s)<!-- test: (.*?) -->|( *)```(\\w*)\n(.*?)```").FindAllStringSubmatch(string(page), -1) {
		if happens := part[1]; happens != "" {
			act, ok := s.acts()[happens]
			if !ok {
				t.Fatalf("the test does not know how this happens: %s", happens)
			}
			act()
			continue
		}
		if part[3] != "console" {
			t.Errorf("a block of language %q, want console:\n%s", part[3], part[4])
			continue
		}
		block := strings.TrimPrefix(strings.ReplaceAll("\n"+part[4], "\n"+part[2], "\n"), "\n")
		requireSame(t, plain(s.sh.replay(t, block)), plain(block))
		commands++
	}
	if commands == 0 {
		t.Fatal("the page shows no command")
	}
}

// plain replaces what differs from run to run in the tables of mdb consumers, and their padding.
func plain(text string) string {
	for _, varies := range []struct{ pattern, what string }{
		{`\S+, process \d+`, "PROCESS"},
		{`\b\d+[smhd]\b`, "AGE"},
		{` {2,}`, "  "},
	} {
		text = regexp.MustCompile(varies.pattern).ReplaceAllString(text, varies.what)
	}
	return text
}

// Services are the programs that run the consumers of docs/runbooks.md, with their database.
type services struct {
	*testing.T

	sh    *shell
	store *mdb.Store
	admin *consumer.Operator
	fixed atomic.Bool // the program of mailer is corrected
	stops map[string]func()
}

func newServices(t *testing.T) *services {
	t.Helper()
	url := testdb.Consumers(t)
	s := &services{T: t, sh: &shell{folder: t.TempDir(), env: environment("DATABASE_URL=" + url)}, stops: make(map[string]func())}
	if out, status := s.sh.run(t, "mdb notify install"); status != 0 {
		t.Fatal(out)
	}
	s.store = s.open()
	s.admin = consumer.Admin(s.store.Pool())
	return s
}

func (s *services) open() *mdb.Store {
	s.Helper()
	cfg, err := pgxpool.ParseConfig(strings.TrimPrefix(s.sh.env[len(s.sh.env)-1], "DATABASE_URL="))
	if err != nil {
		s.Fatal(err)
	}
	mdb.Configure(cfg)
	pool, err := pgxpool.NewWithConfig(s.Context(), cfg)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(pool.Close)
	store, err := mdb.New(pool, mdb.WithNotify())
	if err != nil {
		s.Fatal(err)
	}
	return store
}

// acts returns what happens between the commands of the page.
func (s *services) acts() map[string]func() {
	return map[string]func(){
		"two streams of mailer are parked": s.begin,
		"the program is corrected for signup-77": func() {
			s.fixed.Store(true)
		},
		"nothing is parked": func() {
			s.until("nothing is parked", "mailer", func(d consumer.Details) bool { return d.Parked == 0 && d.Pending == 0 })
		},
		"balances-v2 runs and has caught up": func() {
			s.start("balances-v2", "account", "")
			s.until("it has caught up", "balances-v2", caughtUp)
			s.until("mailer has been resized", "mailer", haveEach(64))
		},
		"the programs of balances and balances-v2 have stopped": func() {
			s.stops["balances"]()
			s.stops["balances-v2"]()
		},
	}
}

func (s *services) begin() {
	type address struct {
		Address string `json:"address"`
	}
	for _, m := range []struct {
		stream  mdb.StreamName
		kind    string
		address string
	}{
		{"signup-77", "SignedUp", "ann@example.com"},
		{"signup-77", "AddressChanged", "ann@"},
		{"signup-78", "SignedUp", "nobody"},
		{"signup-79", "SignedUp", "cid@example.com"},
		{"signup-78", "AddressChanged", "bob@example.com"},
		{"account-1", "Opened", ""},
		{"account-2", "Opened", ""},
		{"account-1", "Closed", ""},
	} {
		if _, err := s.store.WriteMessage(s.Context(), m.stream, mdb.NewMessage(m.kind, address{m.address})); err != nil {
			s.Fatal(err)
		}
	}
	s.start("balances", "account", "")
	s.start("mailer", "signup", "mailer-0")
	s.until("the streams are parked", "mailer", func(d consumer.Details) bool { return d.Parked == 2 && d.Pending == 0 })
	testdb.Postpone(s.T, s.store.Pool())
	s.start("mailer", "signup", "mailer-1")
	s.until("both processes have partitions", "mailer", haveEach(32))
	s.until("it has caught up", "balances", caughtUp)
}

// haveEach reports whether two processes have n partitions each.
func haveEach(n int) func(consumer.Details) bool {
	return func(d consumer.Details) bool {
		return len(d.Processes) == 2 && len(d.Processes[0].Partitions) == n && len(d.Processes[1].Partitions) == n
	}
}

// caughtUp reports whether one process runs a consumer, whose partitions are all at the last position.
func caughtUp(d consumer.Details) bool {
	for i := range d.Checkpoints {
		if d.Checkpoints[i].Position != 8 {
			return false
		}
	}
	return d.Members == 1 && d.Pending == 0
}

// handle handles messages of a program, which for some is wrong at first.
func (s *services) handle(_ context.Context, m mdb.Message) error {
	if m.Stream == "signup-77" && m.Position == 1 && !s.fixed.Load() || m.Stream == "signup-78" && m.Position == 0 {
		return consumer.Permanent(&net.AddrError{Err: "no such address"})
	}
	return nil
}

// start starts a program that runs a consumer, until the test or stops ends it.
func (s *services) start(name string, category mdb.Category, instance string) {
	s.Helper()
	opts := []consumer.Option{consumer.WithLease(time.Minute)} // so that a slow machine ends no lease
	if instance != "" {
		opts = append(opts, consumer.WithInstance(instance))
	}
	c, err := consumer.New(s.open(), name, category, consumer.Each(s.handle), opts...)
	if err != nil {
		s.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(s.Context()))
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err == nil || ctx.Err() == nil {
			s.Error(err)
		}
	})
	s.stops[name] = stop
	s.Cleanup(stop)
}

// until waits until a consumer is in a state.
func (s *services) until(what, name string, holds func(consumer.Details) bool) {
	s.Helper()
	for end := time.After(testTimeout); ; {
		d, err := s.admin.Show(s.Context(), name)
		if err == nil && holds(d) {
			return
		}
		select {
		case <-time.After(20 * time.Millisecond): // only the database shows it
		case <-end:
			s.Fatalf("%s: %+v, %v", what, d, err)
		}
	}
}
