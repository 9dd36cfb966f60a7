package testdb

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// A Proxy is a database of PL/Proxy and its shards, on servers of the test's own.
type Proxy struct {
	URL    string
	Shards []string // their URLs, as the owner
	// Server has the shards with odd numbers, whose databases are named shard1 and so on. The others are on the proxy's server.
	Server *pgtest.Server
}

// ProxyPassword is that of the role message_store on the shards.
const ProxyPassword = "canary-of-the-proxy"

// NewProxy makes a proxy of n shards with the SQL that users get, or skips the test where PL/Proxy is not installed. A function
// that is not nil returns how the proxy reaches the shards with odd numbers, in place of the host and the port of their
// server.
func NewProxy(t testing.TB, n int, odd func(*pgtest.Server) string) *Proxy {
	t.Helper()
	if odd == nil {
		odd = func(server *pgtest.Server) string { return Address(t, server) }
	}
	server := pgtest.Own(t)
	return ProxyOf(t, n, server, odd(server))
}

// ProxyOf is NewProxy with the server of the shards with odd numbers, and with how the proxy reaches it.
func ProxyOf(t testing.TB, n int, server *pgtest.Server, reach string) *Proxy {
	t.Helper()
	front := pgtest.Own(t)
	admin := Session(t, front.URL("postgres"))
	NeedPLProxy(t, front)
	p := &Proxy{Server: server}
	arguments := make([]string, n)
	for i := range n {
		server, by, database := front, Address(t, front), fmt.Sprintf("shard%d", i)
		if i%2 == 1 {
			server, by = p.Server, reach
		}
		url := server.URL(database)
		p.Shards = append(p.Shards, url)
		Exec(t, Session(t, server.URL("postgres")), `CREATE DATABASE `+database)
		if Official() {
			Exec(t, Session(t, server.URL("postgres")), `ALTER DATABASE `+database+` SET search_path = message_store, public`)
		}
		if err := installShard(t, url, i); err != nil {
			t.Fatal(err)
		}
		arguments[i] = by + " dbname=" + database
	}
	Exec(t, admin, `CREATE DATABASE proxy`)
	p.URL = front.URL("proxy")
	InstallProxy(t, p.URL, arguments...)
	return p
}

// NeedPLProxy skips the test where PL/Proxy is not installed.
func NeedPLProxy(t testing.TB, server *pgtest.Server) {
	t.Helper()
	if !Value[bool](t, Session(t, server.URL("postgres")), `SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'plproxy')`) {
		t.Skipf("not run, because PL/Proxy is not installed for this PostgreSQL (Debian: apt-get install postgresql-%d-plproxy)", server.Version())
	}
}

// InstallProxy makes the database at the URL a proxy of shards, whose connection strings it gets. They know [ProxyPassword].
func InstallProxy(t testing.TB, url string, shards ...string) {
	t.Helper()
	sql, err := schema.ProxySQL(shards...)
	if err != nil {
		t.Fatal(err)
	}
	// As psql replaces it.
	sql = strings.ReplaceAll(sql, ":'password'", "'"+ProxyPassword+"'")
	if _, err := Session(t, url).PgConn().Exec(t.Context(), sql).ReadAll(); err != nil {
		t.Fatal(err)
	}
}

// ViewShards creates a view of the messages of all shards in a proxy, in place of the table.
func ViewShards(t testing.TB, url string) {
	t.Helper()
	Exec(t, Session(t, url), `
		CREATE FUNCTION public.all_messages() RETURNS TABLE (id uuid, stream_name text, type text, "position" bigint, global_position bigint, data jsonb, metadata jsonb, "time" timestamp)
		LANGUAGE plproxy AS $$
			CLUSTER 'message_store_shards';
			RUN ON ALL;
			SELECT id, stream_name, type, position, global_position, data, metadata, time FROM message_store.messages;
		$$;
		CREATE VIEW message_store.messages AS SELECT * FROM public.all_messages()`)
}

func installShard(t testing.TB, url string, number int) error {
	t.Helper()
	conn := Session(t, url)
	_, install := installer()
	if err := install(t.Context(), conn); err != nil {
		return err
	}
	if err := schema.InstallShard(t.Context(), conn, number); err != nil {
		return err
	}
	_, err := conn.Exec(t.Context(), `ALTER ROLE message_store LOGIN PASSWORD '`+ProxyPassword+`'`)
	return err
}

// Address returns the host and the port of a server, for libpq.
func Address(t testing.TB, server *pgtest.Server) string {
	t.Helper()
	cfg, err := pgx.ParseConfig(server.TCP("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("host=%s port=%d", cfg.Host, cfg.Port)
}

// MakePlain removes what only package mdb calls from the proxy.
func (p *Proxy) MakePlain(ctx context.Context, t testing.TB) {
	t.Helper()
	if _, err := Session(t, p.URL).Exec(ctx, `DROP SCHEMA message_store_shard CASCADE`); err != nil {
		t.Fatal(err)
	}
}
