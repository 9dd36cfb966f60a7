package main

import (
	"context"
	"flag"
	"strings"

	"github.com/messagedb-go/messagedb/mdb/schema"
)

var proxySQLCommand = command{
	name:  "proxy-sql",
	args:  []string{"SHARD..."},
	short: "print the SQL of a proxy of several shards, for PL/Proxy",
	long: `Prints the SQL that makes an empty database a proxy, which executes Message DB's functions
on the shard that has the category. SHARD is the connection string of each shard, in the
order of their numbers, of key=value pairs as libpq takes them. The number of shards is a power
of two. Run "mdb install -shard NUMBER" on each shard first.

The extension plproxy must be installed on the proxy's server, and only a superuser can
run the SQL. The proxy connects to the shards as the role message_store. The SQL does not contain the
password, but the variable "password" of psql, which may be empty if the shards ask for none.
-v would show the password to other users of the machine, so let psql read it from the environment.`,
	examples: `mdb proxy-sql 'host=shard0 dbname=events' 'host=shard1 dbname=events' > proxy.sql
createdb events
psql -1 -v ON_ERROR_STOP=1 -c '\getenv password SHARD_PASSWORD' -f proxy.sql events
mdb -d events check`,
	setup: func(*flag.FlagSet) action {
		return func(_ context.Context, a *app, args []string) error {
			sql, err := schema.ProxySQL(args...)
			if err != nil {
				return usage("%s", strings.TrimPrefix(err.Error(), "schema: "))
			}
			return a.say("%s", sql)
		}
	},
}
