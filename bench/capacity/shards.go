package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// shardCounts are the numbers of shards that are measured. PL/Proxy needs powers of two.
var shardCounts = []int{1, 2, 4}

// categories are those that are written to. They are even on the shards of each of shardCounts.
var categories = evenCategories(shardCounts[len(shardCounts)-1])

// evenCategories returns as many categories as there are writers, of which each shard has the same number.
func evenCategories(shards int) []mdb.Category {
	names := make([]mdb.Category, writers)
	for i, n := 0, 0; i < writers; n++ {
		if name := mdb.Category(fmt.Sprint("account", n)); shardOf(name, shards) == i%shards {
			names[i] = name
			i++
		}
	}
	return names
}

// shardOf is the rule by which both the clients and PL/Proxy choose a shard.
func shardOf(c mdb.Category, shards int) int { return int(mdb.Hash64(string(c)) & int64(shards-1)) }

// A route is how messages get to a number of shards.
type route struct {
	name    string
	writers int
	batch   int // messages of a call
	shards  int
	proxied bool
}

// routes are measured in turn.
func routes(proxied bool) (all []route) {
	for _, load := range []struct{ writers, batch int }{{1, 1}, {writers, 1}, {writers, 100}} {
		for _, n := range shardCounts {
			all = append(all, route{"directly", load.writers, load.batch, n, false})
		}
		if !proxied {
			continue
		}
		for _, n := range shardCounts {
			all = append(all, route{"through PL/Proxy", load.writers, load.batch, n, true})
		}
	}
	return all
}

// A cluster is as many servers as there are shards, and if PL/Proxy is installed another one with a proxy of each of shardCounts.
type cluster struct {
	shards  []*server
	direct  []*mdb.Store
	proxy   *server
	proxies map[int]*mdb.Store // by the number of shards; nil if PL/Proxy is not installed
}

func newCluster(ctx context.Context) (c *cluster, err error) {
	c = new(cluster)
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close())
		}
	}()
	for i := range shardCounts[len(shardCounts)-1] {
		s, err := newServer(ctx)
		if err != nil {
			return c, err
		}
		c.shards = append(c.shards, s)
		if err := s.create(ctx, "shard", func(ctx context.Context, conn *pgx.Conn) error { return installShard(ctx, conn, i) }); err != nil {
			return c, err
		}
		store, err := s.connect(ctx, "shard")
		if err != nil {
			return c, err
		}
		c.direct = append(c.direct, store)
	}
	if c.proxy, err = newServer(ctx); err != nil {
		return c, err
	}
	var installed bool
	if err = c.proxy.admin.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'plproxy')").Scan(&installed); err != nil || !installed {
		return c, err
	}
	c.proxies = make(map[int]*mdb.Store)
	for _, n := range shardCounts {
		if c.proxies[n], err = c.newProxy(ctx, n); err != nil {
			return c, err
		}
	}
	return c, nil
}

// password is that of the role as which the proxies connect to the shards.
const password = "benchmark"

func installShard(ctx context.Context, conn *pgx.Conn, number int) error {
	if err := schema.InstallShard(ctx, conn, number); err != nil {
		return err
	}
	_, err := conn.Exec(ctx, "ALTER ROLE message_store LOGIN PASSWORD '"+password+"'")
	return err
}

func (c *cluster) newProxy(ctx context.Context, shards int) (*mdb.Store, error) {
	database := fmt.Sprint("proxy", shards)
	var addresses []string
	for _, s := range c.shards[:shards] {
		cfg, err := pgx.ParseConfig(s.TCP("shard"))
		if err != nil {
			return nil, err
		}
		addresses = append(addresses, fmt.Sprintf("host=%s port=%d dbname=shard", cfg.Host, cfg.Port))
	}
	sql, err := schema.ProxySQL(addresses...)
	if err != nil {
		return nil, err
	}
	sql = strings.ReplaceAll(sql, ":'password'", "'"+password+"'") // as psql does
	err = c.proxy.create(ctx, database, func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.PgConn().Exec(ctx, sql).ReadAll()
		return err
	})
	if err != nil {
		return nil, err
	}
	return c.proxy.connect(ctx, database)
}

func (c *cluster) close() (err error) {
	for _, store := range c.direct {
		store.Close()
	}
	for _, store := range c.proxies {
		if store != nil {
			store.Close()
		}
	}
	if c.proxy != nil {
		err = c.proxy.close()
	}
	for _, s := range c.shards {
		err = errors.Join(err, s.close())
	}
	return err
}

// write writes messages for a time.
func (c *cluster) write(ctx context.Context, r route, turn int, d time.Duration) (messages int64, took time.Duration, err error) {
	return repeat(ctx, r.writers, d, func(ctx context.Context, writer, i int) (int, error) {
		category := categories[writer]
		if r.writers == 1 { // so that it uses all shards
			category = categories[i%writers]
		}
		store := c.proxies[r.shards]
		if !r.proxied {
			store = c.direct[shardOf(category, r.shards)]
		}
		return writeTogether(ctx, store, streamOf(category, (turn*7919+writer*1_000_003+i)%streamsOfWays), r.batch)
	})
}

// servers are those that work for a route.
func (c *cluster) servers(r route) []*server {
	servers := c.shards[:r.shards:r.shards]
	if r.proxied {
		servers = append(servers, c.proxy)
	}
	return servers
}

// shards measures all routes in each round.
func (b *bench) shards(ctx context.Context) (all []route, table []series, err error) {
	c, err := newCluster(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	all = routes(c.proxies != nil)
	for turn, r := range all { // opens the connections, also those from the proxies to the shards
		if _, _, err := c.write(ctx, r, turn, b.turn/4); err != nil {
			return nil, nil, err
		}
	}
	table = make([]series, len(all))
	for round := range b.rounds {
		for i, r := range all {
			u, err := measure(ctx, c.servers(r), func() (int64, time.Duration, error) { return c.write(ctx, r, round*len(all)+i, b.turn) })
			if err != nil {
				return nil, nil, fmt.Errorf("%d shards %s: %w", r.shards, r.name, err)
			}
			table[i] = append(table[i], u)
		}
	}
	return all, table, nil
}
