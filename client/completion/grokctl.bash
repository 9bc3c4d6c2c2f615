# Completion of grokctl and grokd for bash. Options and commands come from --help itself, so that
# they can't fall behind; model names come from the daemon.
# shellcheck shell=bash

_grokctl_options() {
    "$@" --help 2>/dev/null | grep -oE -- '(^|[ ,])--[a-z][a-z0-9-]*' | tr -d ' ,'
}

_grokctl() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
    local program=${COMP_WORDS[0]} command='' word i

    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        case $word in
        -s | --socket | -m | --model | -f | --file | -l | --load | --json-schema | --grammar) ((i++)) ;;
        -*) ;;
        *)
            command=$word
            break
            ;;
        esac
    done
    case $previous in
    -m | --model)
        mapfile -t COMPREPLY < <(compgen -W "$("$program" models 2>/dev/null | awk 'NR > 1 && !/^ / {print $1}')" -- "$current")
        return
        ;;
    --pooling)
        mapfile -t COMPREPLY < <(compgen -W "mean last" -- "$current")
        return
        ;;
    --priority)
        mapfile -t COMPREPLY < <(compgen -W "interactive normal batch" -- "$current")
        return
        ;;
    --template)
        mapfile -t COMPREPLY < <(compgen -W "alpaca chatglm3 chatglm4 chatml gemma llama2 llama3 mistral phi3 plain qwen2 vicuna zephyr" -- "$current")
        return
        ;;
    -s | --socket | -f | --file | -l | --load | --json-schema | --grammar)
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
        return
        ;;
    esac
    if [[ $current == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$(_grokctl_options "$program" ${command:+"$command"})" -- "$current")
    elif [[ -z $command ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$("$program" --help 2>/dev/null | awk '/^Commands:/ {on = 1; next} /^$/ {on = 0} on {print $1}')" -- "$current")
    elif [[ $command == @(show|load|unload) ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$("$program" models 2>/dev/null | awk 'NR > 1 && !/^ / {print $1}')" -- "$current")
    fi
}

_grokd() {
    local current=${COMP_WORDS[COMP_CWORD]}

    if [[ $current == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$(_grokctl_options "${COMP_WORDS[0]}")" -- "$current")
    else
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
    fi
}

complete -F _grokctl grokctl
complete -F _grokd grokd
