package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/internal/loosescan"
	"github.com/messagedb-go/messagedb/internal/trigger"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

var notifyCommand = command{
	name:  "notify",
	args:  []string{"install|remove|status"},
	words: func() []string { return []string{"install", "remove", "status"} },
	short: "install, remove or inspect the NOTIFY trigger",
	long: `Installs or removes the trigger that notifies subscriptions, including tail, when a
message is written. Without it they poll. Only the owner of the table messages can
install or remove it.

status prints whether the trigger is installed, which connections wait for
notifications, and for which categories. The server has only the hashes of their names,
which are compared with those of the first ` + strconv.Itoa(loosescan.MaxSteps) + ` categories that have messages. The
others are unknown, and all are unknown to a role that may not read the table messages.
On a terminal, long lists are cut. status exits with 4 if the trigger is missing or
disabled. The trigger of a database of PL/Proxy is that of each of its shards.`,
	examples: `mdb notify install
mdb notify install -print > notify.sql
mdb notify status`,
	setup: func(fs *flag.FlagSet) action {
		printSQL := fs.Bool("print", false, "with install: print the SQL instead of running it")
		return func(ctx context.Context, a *app, args []string) error {
			do := map[string]func(context.Context, *mdb.Store) error{
				"install": func(ctx context.Context, s *mdb.Store) error {
					if err := schema.InstallNotify(ctx, s.Pool()); err != nil {
						return err
					}
					return a.say("the NOTIFY trigger is installed\n")
				},
				"remove": func(ctx context.Context, s *mdb.Store) error {
					if err := schema.UninstallNotify(ctx, s.Pool()); err != nil {
						return err
					}
					return a.say("the NOTIFY trigger is removed\n")
				},
				"status": a.notifyStatus,
			}
			if len(args) != 1 || do[args[0]] == nil {
				return usage("want install, remove or status, got %s", listed(args))
			}
			if *printSQL {
				if args[0] != "install" {
					return usage("-print is for install, got %s", args[0])
				}
				return a.say("%s", schema.NotifySQL())
			}
			return a.withStore(ctx, func(s *mdb.Store) error { return do[args[0]](ctx, s) })
		}
	},
}

func (a *app) notifyStatus(ctx context.Context, s *mdb.Store) error {
	state, err := trigger.Look(ctx, s.Pool())
	switch {
	case err != nil:
		return fmt.Errorf("look up the NOTIFY trigger: %w", err)
	case state.Proxied:
		return nothing("write_message is a function of PL/Proxy: run mdb notify status on each shard")
	case !state.Installed:
		return nothing("the NOTIFY trigger is not installed")
	case !state.Enabled:
		return nothing("the NOTIFY trigger is disabled")
	}
	if err := a.say("the NOTIFY trigger is installed\nconnections waiting for notifications: %d, categories: %d\n", len(state.Listeners), state.Categories); err != nil {
		return err
	}
	if len(state.Listeners) == 0 {
		return nil
	}
	names, err := trigger.Names(ctx, s.Pool())
	if err != nil {
		err = fmt.Errorf("look up the names of categories: %w", err)
		if refused := (*pgconn.PgError)(nil); !errors.As(err, &refused) {
			return err
		}
		a.complain(err) // the rest is known
	}
	most := 0
	if isTerminal(a.stdout) {
		most = shownCategories
	}
	for _, l := range state.Listeners {
		if err := a.say("  pid %d, client %s, application_name %q, categories: %d (%s)\n",
			l.PID, cmp.Or(l.Client, "unknown"), l.Application, len(l.Keys), waitedFor(l.Keys, names, most)); err != nil {
			return err
		}
	}
	return nil
}

// shownCategories is how many names a line of a terminal has.
const shownCategories = 20

// waitedFor returns the names of the categories with the keys, at most so many unless most is 0, and how many are unknown.
func waitedFor(keys []int32, names map[int32][]string, most int) string {
	var list []string
	for _, key := range keys {
		if found := names[key]; found != nil {
			list = append(list, printable(strings.Join(found, " or ")))
		}
	}
	unknown := len(keys) - len(list)
	slices.Sort(list)
	if more := len(list) - most; most > 0 && more > 0 {
		list = append(list[:most], fmt.Sprintf("%d more", more))
	}
	if unknown > 0 {
		list = append(list, fmt.Sprintf("%d unknown", unknown))
	}
	return strings.Join(list, ", ")
}
