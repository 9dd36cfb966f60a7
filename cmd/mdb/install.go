package main

import (
	"context"
	"errors"
	"flag"
	"runtime/debug"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

var installCommand = command{
	name:  "install",
	args:  []string{""},
	short: "create Message DB in the database",
	long: `Creates Message DB in the database, which has to exist. Where there is one, of any
origin, it is left as it is. The role needs CREATE on the database and, unless the
role message_store exists, CREATEROLE.`,
	examples: `mdb install`,
	setup: func(*flag.FlagSet) action {
		return func(ctx context.Context, a *app, args []string) error {
			if _, err := exactly(args); err != nil {
				return err
			}
			return a.withStore(ctx, func(s *mdb.Store) error {
				if err := schema.Install(ctx, s.Pool()); err != nil {
					return err
				}
				version, err := s.MessageStoreVersion(ctx)
				if err != nil {
					return err
				}
				return a.say("Message DB %s is installed\n", version)
			})
		}
	},
}

var checkCommand = command{
	name:  "check",
	args:  []string{""},
	short: "tell what is wrong with the database, the role or the connection",
	long: `Tells what is wrong with the database, the role or the connection, and what to do
about it: a missing Message DB, right or index, a search path that leads elsewhere,
a standby.`,
	examples: `mdb check`,
	setup: func(*flag.FlagSet) action {
		return func(ctx context.Context, a *app, args []string) error {
			if _, err := exactly(args); err != nil {
				return err
			}
			return a.withStore(ctx, func(s *mdb.Store) error {
				if err := s.Check(ctx); err != nil {
					return err
				}
				return a.say("Message DB is as it has to be\n")
			})
		}
	},
}

var versionCommand = command{
	name:  "version",
	args:  []string{"", "STREAM"},
	short: "print the version of a stream, or those of mdb and Message DB",
	long: `Prints the version of a stream, which is the position of its last message, or "none"
with exit status 4 if it has no messages. -expect of write takes either. Without a
stream it prints the versions of this command and of Message DB in the database.`,
	examples: `mdb version account-123
mdb write -expect "$(mdb version account-123)" account-123 Closed < /dev/null`,
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

// versions tells the command's own also where the database cannot be reached.
func (a *app) versions(ctx context.Context) error {
	if err := a.say("mdb %s\n", ownVersion()); err != nil {
		return err
	}
	return a.withStore(ctx, func(s *mdb.Store) error {
		version, err := s.MessageStoreVersion(ctx)
		if err != nil {
			return err
		}
		return a.say("Message DB %s\n", version)
	})
}

// noStream is the version of a stream without messages, in words.
const noStream = "none"

func noMessages(stream mdb.StreamName) error {
	return nothing("no messages found in %s", printable(string(stream)))
}

func ownVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(unknown)"
}

// withStore calls f with the store, and closes it.
func (a *app) withStore(ctx context.Context, f func(*mdb.Store) error, opts ...mdb.StoreOption) error {
	s, err := a.connect(ctx, opts...)
	if err != nil {
		return err
	}
	defer s.Close()
	return f(s)
}
