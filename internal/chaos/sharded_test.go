package chaos

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// A proxyOfClusters is a proxy of PL/Proxy with two shards, each of which is a cluster.
type proxyOfClusters struct {
	url    string   // the proxy, for clients
	direct string   // another one of the same shards, which shows all messages
	shards []string // for notifications
}

// failingShard is the number of the shard that fails.
const failingShard = 1

// categoryOf returns a new category that is on the shard.
func categoryOf(shard int) mdb.Category {
	for {
		if c := mdbtest.Category("chaos"); shardOf(c) == shard {
			return c
		}
	}
}

func shardOf(c mdb.Category) int { return int(mdb.Hash64(string(c)) & 1) }

// affects reports whether the fault is one of the server that the category is on.
func (f *failover) affects(c mdb.Category) bool { return !f.sharded || shardOf(c) == failingShard }

// startProxy makes the cluster that fails a shard, starts a cluster that is the other one, and a proxy of both.
func (f *failover) startProxy(t *testing.T) *proxyOfClusters {
	t.Helper()
	other := startCluster(t, f.synchronous, f.times)
	p := new(proxyOfClusters)
	var reach []string
	for number, c := range []*cluster{other, f.cluster} {
		if err := c.installShard(t.Context(), number); err != nil {
			t.Fatal(err)
		}
		p.shards = append(p.shards, c.url())
		if number == failingShard && f.haproxy != 0 {
			reach = append(reach, fmt.Sprintf("host=127.0.0.1 port=%d dbname=mdb", f.haproxy))
			continue
		}
		var hosts, ports []string
		for _, n := range c.nodes {
			hosts, ports = append(hosts, "127.0.0.1"), append(ports, fmt.Sprint(n.Port))
		}
		reach = append(reach, fmt.Sprintf("host=%s port=%s dbname=mdb target_session_attrs=read-write", strings.Join(hosts, ","), strings.Join(ports, ",")))
	}
	front := pgtest.Own(t)
	for _, name := range []string{"proxy", "direct"} {
		testdb.Exec(t, testdb.Session(t, front.URL("postgres")), "CREATE DATABASE "+name)
		testdb.InstallProxy(t, front.URL(name), reach...)
	}
	p.url, p.direct = front.URL("proxy"), front.URL("direct")
	testdb.ViewShards(t, p.direct)
	return p
}

// installShard makes the cluster a shard with the number.
func (c *cluster) installShard(ctx context.Context, number int) error {
	conn, err := c.nodes[0].connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	if err := schema.InstallShard(ctx, conn, number); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, "ALTER ROLE message_store LOGIN PASSWORD '"+testdb.ProxyPassword+"'"); err != nil {
		return err
	}
	return c.awaitReplay(ctx, conn)
}
