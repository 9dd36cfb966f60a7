# Starts a server and removes every trace of it when standard input ends, which
# is when the owner's process ends, in whatever way. Run as the server's user:
#
#	sh -c "$(cat watchdog.sh)" pgtest BIN DIR
#
# with the variables password and settings. Standard input carries commands for
# pg_ctl, one a line; standard output answers each of them, and initdb before
# them, with an exit status. Descriptor 3 is the lock of DIR: the watchdog holds
# it, the server must not, or it would keep the lock of a dead watchdog.
bin=$1 dir=$2

# A dead owner reads no answers, and its end is the only thing that ends this.
trap '' PIPE HUP INT TERM

umask 077
exec 2>>"$dir/log"

{
	printf '%s\n' "$password" >"$dir/password" &&
		"$bin/initdb" --pgdata="$dir/data" --username=postgres --pwfile="$dir/password" \
			--auth-local=trust --auth-host=scram-sha-256 \
			--encoding=UTF8 --no-locale --no-sync &&
		printf '%s' "$settings" >>"$dir/data/postgresql.conf"
} >>"$dir/log" 3>&-
echo $?

while read -r command; do
	# Unquoted, because a command is several words.
	"$bin/pg_ctl" $command --pgdata="$dir/data" --log="$dir/log" --wait --timeout=30 \
		</dev/null >>"$dir/log" 3>&-
	echo $?
done

"$bin/pg_ctl" stop --mode=immediate --pgdata="$dir/data" --wait --timeout=30 >>"$dir/log" 3>&-
rm -rf "$dir"
