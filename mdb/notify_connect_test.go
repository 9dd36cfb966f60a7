package mdb_test

import (
	"context"
	"net"
	"net/url"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// TestNotifyListenOnHooks checks that the pool's BeforeConnect, DialFunc and LookupFunc apply
// to the connection of ListenOn, which sets the encoding, and watches over itself.
func TestNotifyListenOnHooks(t *testing.T) {
	t.Parallel()
	server := pgtest.Own(t)
	admin := barePool(t, server.URL("postgres"))
	if err := schema.Install(t.Context(), admin); err != nil {
		t.Fatal(err)
	}
	installNotify(t, admin)
	exec(t, admin, `ALTER ROLE postgres SET client_encoding = 'LATIN1'`)
	address, err := url.Parse(server.TCP("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	password, _ := address.User.Password()
	address.User = url.User(address.User.Username()) // the hook knows the password
	port := address.Port()
	address.Host = "server.invalid:" + port

	var looked, dialled atomic.Int64
	prepare := func(cfg *pgxpool.Config) {
		cfg.BeforeConnect = func(_ context.Context, cfg *pgx.ConnConfig) error {
			cfg.Password = password
			return nil
		}
		lookup, dial := cfg.ConnConfig.LookupFunc, cfg.ConnConfig.DialFunc
		cfg.ConnConfig.LookupFunc = func(ctx context.Context, host string) ([]string, error) {
			if host == "server.invalid" {
				looked.Add(1)
				return []string{"127.0.0.1"}, nil
			}
			return lookup(ctx, host)
		}
		cfg.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if addr == "127.0.0.1:"+port {
				dialled.Add(1)
			}
			return dial(ctx, network, addr)
		}
	}
	pool := newPool(t, server.URL("postgres"), prepare)
	s := newStore(t, pool, waitingOnly(mdb.ListenOn(address.String()+"&pool_max_conns=7"))...)
	stream := mdbtest.Category("hooks").Stream("1")
	f := followStream(t, s, stream)
	settled(t, s)
	follows(t, testdb.Session(t, server.URL("postgres")), f, stream, 3)
	if looked.Load() == 0 || dialled.Load() == 0 {
		t.Errorf("LookupFunc was called %d times, DialFunc %d times for the address, want both", looked.Load(), dialled.Load())
	}
}
