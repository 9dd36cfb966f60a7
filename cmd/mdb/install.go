package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

var installCommand = command{
	name:  "install",
	args:  []string{""},
	short: "install Message DB into the database",
	long: `Installs Message DB into an existing database. An installed Message DB is left
unchanged, whoever installed it. The role needs CREATE on the database, and
CREATEROLE unless the role message_store exists. If that role or its privileges are
missing, as after a restore, they are added.

With -consumers, the schema message_store_consumers is installed as well, or migrated
to the version of this command. Consumers, of the Go package mdb/consumer, store their
positions in it.

-print prints the SQL that installs Message DB, or with -consumers only the schema
message_store_consumers, for a migration tool or a review.

With -shard, the store becomes the shard with that number, from 0 to 1023. All its new messages
get global positions with the number as their remainder modulo 1024, so that no two shards use the same
positions, and a category can be moved from one to another. A store with messages keeps them. The role
must own the table messages.

With -pin-search-path, functions that depend on the search path of their callers, as
those of Message DB's own script do, no longer do. It does not change those that mdb
installs. The role must own the functions. Each call of a changed function takes
longer.`,
	examples: `mdb install
mdb install -consumers
mdb install -shard 3
mdb install -print > message_db.sql
mdb install -pin-search-path`,
	setup: func(fs *flag.FlagSet) action {
		printSQL := fs.Bool("print", false, "print the SQL instead of running it")
		consumers := fs.Bool("consumers", false, "also install the schema in which consumers store their positions")
		shard := noShard
		fs.Func("shard", "make the store the shard with this `NUMBER`", func(given string) error {
			n, err := strconv.Atoi(given)
			if err != nil || n < 0 || n >= schema.ShardStride {
				return fmt.Errorf("want a number from 0 to %d", schema.ShardStride-1)
			}
			shard = n
			return nil
		})
		pin := fs.Bool("pin-search-path", false, "make the functions independent of the search path")
		return func(ctx context.Context, a *app, args []string) error {
			if _, err := exactly(args); err != nil {
				return err
			}
			switch {
			case *printSQL && shard != noShard:
				return usage("-print excludes -shard")
			case *printSQL && *consumers:
				return a.say("%s", schema.ConsumersSQL())
			case *printSQL:
				return a.say("%s", schema.SQL())
			}
			return a.withStore(ctx, func(s *mdb.Store) error {
				if err := install(ctx, s, shard); err != nil {
					return err
				}
				if *pin {
					changed, err := schema.PinSearchPath(ctx, s.Pool())
					if err != nil {
						return err
					}
					if err := a.say("the search path of %d functions is pinned\n", changed); err != nil {
						return err
					}
				}
				version, err := s.MessageStoreVersion(ctx)
				if err != nil {
					return err
				}
				if err := a.say("Message DB %s is installed\n", version); err != nil {
					return err
				}
				if err := a.shardStatus(ctx, s); err != nil || !*consumers {
					return err
				}
				if err := schema.InstallConsumers(ctx, s.Pool()); err != nil {
					return err
				}
				return a.consumersStatus(ctx, s)
			})
		}
	},
}

var checkCommand = command{
	name:  "check",
	args:  []string{""},
	short: "check the database, the role and the connection",
	long: `Checks the database, the role and the connection, and prints each problem with its
remedy: Message DB is not installed, a right or an index is missing, the search path
does not suit the functions, the server is a standby, or something loses, duplicates,
hides or rejects messages. It also prints whether the schema of consumers is installed,
and its version.`,
	examples: `mdb check
mdb check -read-only`,
	setup: func(fs *flag.FlagSet) action {
		readOnly := fs.Bool("read-only", false, "accept that nothing can be written")
		return func(ctx context.Context, a *app, args []string) error {
			if _, err := exactly(args); err != nil {
				return err
			}
			return a.withStore(ctx, func(s *mdb.Store) error {
				var opts []mdb.CheckOption
				if *readOnly {
					opts = append(opts, mdb.ReadOnly())
				}
				if err := s.Check(ctx, opts...); err != nil {
					return separate(err)
				}
				version, err := s.MessageStoreVersion(ctx)
				if err != nil {
					return err
				}
				if err := a.say("ok: Message DB %s is set up correctly\n", version); err != nil {
					return err
				}
				if err := a.shardStatus(ctx, s); err != nil {
					return err
				}
				return a.consumersStatus(ctx, s)
			})
		}
	},
}

// noShard stands for a store that is not to become a shard.
const noShard = -1

func install(ctx context.Context, s *mdb.Store, shard int) error {
	if shard == noShard {
		return schema.Install(ctx, s.Pool())
	}
	return schema.InstallShard(ctx, s.Pool(), shard)
}

// shardStatus prints which shard the store is, if it is one.
func (a *app) shardStatus(ctx context.Context, s *mdb.Store) error {
	state, err := schema.ShardStatus(ctx, s.Pool())
	if err != nil || !state.Installed {
		return err
	}
	return a.say("the store is shard %d\n", state.Number)
}

// consumersStatus prints whether the schema of consumers is installed.
func (a *app) consumersStatus(ctx context.Context, s *mdb.Store) error {
	state, err := schema.ConsumersStatus(ctx, s.Pool())
	switch {
	case err != nil:
		return err
	case !state.Installed:
		return a.say("the schema of consumers is not installed\n")
	case state.Version < schema.ConsumersVersion:
		return a.say("the schema of consumers has version %d, and this mdb needs version %d\n  remedy: run \"mdb install -consumers\" as its owner\n",
			state.Version, schema.ConsumersVersion)
	}
	return a.say("the schema of consumers is installed, version %d\n", state.Version)
}

var versionCommand = command{
	name:  "version",
	args:  []string{"", "STREAM"},
	short: "print the version of a stream, or of mdb and Message DB",
	long: `Prints the version of a stream, which is the position of its last message. For a
stream without messages it prints "none" and exits with 4. "write -expect" takes
either. Without a stream it prints the version of mdb and, if a database is given, of
the Message DB in it.`,
	examples: `mdb version account-123
mdb write -empty -expect "$(mdb version account-123)" account-123 Closed`,
	setup: func(*flag.FlagSet) action {
		return func(ctx context.Context, a *app, args []string) error {
			given, err := atMostOne(args, "STREAM")
			if err != nil {
				return err
			}
			stream, err := name(given)
			if err != nil {
				return err
			}
			if len(args) == 0 {
				return a.versions(ctx)
			}
			return a.withStore(ctx, func(s *mdb.Store) error {
				version, err := s.StreamVersion(ctx, stream)
				switch {
				case err != nil:
					return err
				case version == mdb.NoStream:
					return errors.Join(a.say("%s\n", noStream), noMessages(stream))
				}
				return a.say("%d\n", version)
			})
		}
	},
}

// versions prints the command's own version and, if a database is given, that of the
// Message DB in it.
func (a *app) versions(ctx context.Context) error {
	if err := a.ownVersion(); err != nil {
		return err
	}
	given := []string{a.database}
	for _, name := range []string{"DATABASE_URL", "PGHOST", "PGPORT", "PGDATABASE", "PGSERVICE"} {
		given = append(given, a.env(name))
	}
	if strings.Join(given, "") == "" {
		return nil
	}
	return a.withStore(ctx, func(s *mdb.Store) error {
		version, err := s.MessageStoreVersion(ctx)
		if err != nil {
			return err
		}
		return a.say("Message DB %s\n", version)
	})
}

// noStream is how the version of a stream without messages is written.
const noStream = "none"

// anyVersion stands for any version of a stream that has messages.
const anyVersion = "any"

func noMessages(stream mdb.StreamName) error {
	return nothing("no messages found in %s", printable(string(stream)))
}

func (a *app) ownVersion() error {
	version := "(unknown)"
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		version = info.Main.Version
	}
	return a.say("mdb %s\n", version)
}

// withStore calls f with a store, which it closes afterwards.
func (a *app) withStore(ctx context.Context, f func(*mdb.Store) error, opts ...mdb.ConnectOption) error {
	s, err := a.connect(ctx, opts...)
	if err != nil {
		return explainConnect(err)
	}
	defer s.Close()
	return f(s)
}

// A checkError prints each problem of Check on a line, and its remedy on the next one.
type checkError struct{ err error }

func (e *checkError) Unwrap() error { return e.err }

func (e *checkError) Error() string {
	var lines []string
	for _, part := range e.err.(interface{ Unwrap() []error }).Unwrap() {
		var setup *mdb.SetupError
		if errors.As(part, &setup) {
			lines = append(lines, setup.Problem, "  remedy: "+setup.Remedy)
		} else {
			lines = append(lines, part.Error())
		}
	}
	return strings.Join(lines, "\n")
}

// separate returns the error of Check as a checkError, unless Check itself has failed.
func separate(err error) error {
	if _, ok := err.(interface{ Unwrap() []error }); !ok {
		return err
	}
	return &checkError{err}
}
