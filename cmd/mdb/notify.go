package main

import (
	"cmp"
	"context"
	"flag"

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
notifications, and for how many categories. It exits with 4 if the trigger is missing
or disabled. The trigger of a database of PL/Proxy is that of each of its shards.`,
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
	state, err := schema.NotifyStatus(ctx, s.Pool())
	switch {
	case err != nil:
		return err
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
	for _, l := range state.Listeners {
		if err := a.say("  pid %d, client %s, application_name %q, categories: %d\n", l.PID, cmp.Or(l.Client, "unknown"), l.Application, l.Categories); err != nil {
			return err
		}
	}
	return nil
}
