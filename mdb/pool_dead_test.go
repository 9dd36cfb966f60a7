package mdb_test

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

func connectTimeout(d time.Duration) func(*pgxpool.Config) {
	return func(cfg *pgxpool.Config) { cfg.ConnConfig.ConnectTimeout = d }
}

// silentHost returns the address of a listener that accepts connections and says nothing, as a
// frozen server does.
func silentHost(t testing.TB) *net.TCPAddr {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var accepted sync.WaitGroup
	accepted.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { _ = conn.Close() })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		accepted.Wait()
	})
	return listener.Addr().(*net.TCPAddr)
}

// deadHosts are addresses that never answer.
var deadHosts = map[string]func(testing.TB) *net.TCPAddr{"silent": silentHost}

// after puts an address before those of the configuration, as that of the first host.
func after(address *net.TCPAddr) func(*pgxpool.Config) {
	return func(cfg *pgxpool.Config) {
		c := &cfg.ConnConfig.Config
		c.Fallbacks = append([]*pgconn.FallbackConfig{{Host: c.Host, Port: c.Port, TLSConfig: c.TLSConfig}}, c.Fallbacks...)
		c.Host, c.Port, c.TLSConfig = address.IP.String(), uint16(address.Port), nil
	}
}

// TestDeadHost checks that a host that does not answer does not take the connections of the
// pool, if another one in the connection string does.
func TestDeadHost(t *testing.T) {
	t.Parallel()
	for name, listen := range deadHosts {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t, newPool(t, testdb.Shared(t), after(listen(t)), connectTimeout(2*time.Second), func(cfg *pgxpool.Config) { cfg.MaxConns = 3 }))
			ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
			defer cancel()
			category := mdbtest.Category("dead")
			var writers sync.WaitGroup
			for range 6 {
				writers.Go(func() {
					if _, err := s.WriteMessage(ctx, category.Stream("1"), mdb.NewMessage("Happened", nil)); err != nil {
						t.Error(err)
					}
				})
			}
			writers.Wait()
			if n := len(positions(t, s.Pool(), category.Stream("1"))); n != 6 {
				t.Errorf("got %d messages, want 6", n)
			}
		})
	}
}

// TestFrozenServer checks that connections to a server that no longer answers, which the pool
// pings before it uses them, are replaced.
func TestFrozenServer(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for several timeouts of pgx, half a minute in all")
	}
	t.Parallel()
	pair := testdb.Pair(t)
	s := newStore(t, newPool(t, pair.URL(), func(cfg *pgxpool.Config) {
		cfg.MaxConns = 3
		cfg.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return true }
	}))
	write(t, s, "account-1", mdb.NewMessage("Happened", nil))
	openConnections(t, s.Pool(), 3)
	pair.CatchUp(t)
	if err := pair.Primary.Freeze(); err != nil {
		t.Fatal(err)
	}
	pair.Promote(t)
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	if w, err := s.WriteMessage(ctx, "account-1", mdb.NewMessage("Happened", nil)); err != nil || w.Position != 1 {
		t.Errorf("got %+v, %v, want position 1", w, err)
	}
}

// TestConfigureTimeouts checks that Configure sets the timeouts that are not given, and no
// others, and that Check finds a pool without one.
func TestConfigureTimeouts(t *testing.T) {
	t.Setenv("PGCONNECT_TIMEOUT", "")
	for parameters, want := range map[string][2]time.Duration{
		"":                      {2 * time.Second, 2 * time.Second},
		"&connect_timeout=0":    {2 * time.Second, 2 * time.Second}, // which pgx does not tell from none
		"&connect_timeout=7":    {7 * time.Second, 2 * time.Second},
		"&pool_ping_timeout=3s": {2 * time.Second, 3 * time.Second},
		"&connect_timeout=7&pool_ping_timeout=3s": {7 * time.Second, 3 * time.Second},
	} {
		for _, opts := range [][]mdb.ConfigureOption{nil, {mdb.BehindPooler()}} {
			cfg, err := pgxpool.ParseConfig(testdb.Shared(t) + parameters)
			if err != nil {
				t.Fatal(err)
			}
			mdb.Configure(cfg, opts...)
			if got := [2]time.Duration{cfg.ConnConfig.ConnectTimeout, cfg.PingTimeout}; got != want {
				t.Errorf("%q: got timeouts %v, want %v", parameters, got, want)
			}
		}
	}
	s := newStore(t, newPool(t, testdb.Shared(t), connectTimeout(0)))
	found := findings(t, s.Check(t.Context()))
	if len(found) != 1 || found[0].Problem == "" || found[0].Remedy == "" {
		t.Errorf("got findings %v, want the timeout", found)
	}
}
