/** The value of each setting, and where it comes from: an option, a `PSP_*` variable, the default. */
import { IsthmusError } from '../base/errors.js';
import { type Config, type ConfigOptions, SETTINGS, type SettingName } from './config.js';
import { type Group, priority, type Setting } from './setting.js';

/** The origin of a value. */
export type Origin = 'option' | 'environment' | 'default';

/** One row of `isthmus info`. */
export interface ConfigRow {
  readonly name: SettingName;
  readonly variable: string;
  readonly group: Group;
  readonly value: string | number | boolean;
  readonly origin: Origin;
  readonly takes: string;
  readonly meaning: string;
}

/**
 * Every setting with its value and the origin of the value.
 * @throws ERR_ISTHMUS_CONFIG; the message names the variable or option, the value, and the accepted values
 */
export function explain(options: ConfigOptions = {}, environment: NodeJS.ProcessEnv = process.env): ConfigRow[] {
  return (Object.keys(SETTINGS) as SettingName[]).map((name) => {
    const { variable, group, takes, meaning } = SETTINGS[name];
    return { name, variable, group, ...settle(name, options, environment), takes, meaning };
  });
}

/** The rows without passwords, for output. */
export function masked(rows: readonly ConfigRow[]): ConfigRow[] {
  return rows.map((row) => {
    const { shown }: { readonly shown?: (value: string) => string } = SETTINGS[row.name];
    return shown ? { ...row, value: shown(String(row.value)) } : row;
  });
}

function settle(
  name: SettingName,
  options: ConfigOptions,
  environment: NodeJS.ProcessEnv,
): { value: string | number | boolean; origin: Origin } {
  const setting = SETTINGS[name] as Setting<string | number | boolean>;
  const { variable, takes, follows } = setting;
  const shown = (value: unknown) => (setting.shown ? setting.shown(String(value)) : String(value));
  const option = options[name];
  if (option !== undefined) {
    if (!setting.check(option)) {
      throw new IsthmusError('ERR_ISTHMUS_CONFIG', `option ${name}: '${shown(option)}' is not ${takes}`);
    }
    return { value: option, origin: 'option' };
  }
  const entry = environment[variable];
  if (entry !== undefined) {
    const value = setting.read(entry);
    if (value === undefined) {
      throw new IsthmusError('ERR_ISTHMUS_CONFIG', `${variable}: '${shown(entry)}' is not ${takes}`);
    }
    return { value, origin: 'environment' };
  }
  if (follows !== undefined) {
    const followed = settle(follows as SettingName, options, environment);
    if (followed.origin !== 'default') return followed;
  }
  return { value: setting.default, origin: 'default' };
}

/**
 * The priority of a third-party plugin: `PSP_<NAME>` takes precedence over its own.
 * @throws ERR_ISTHMUS_CONFIG; ERR_ISTHMUS_INVALID_ARGUMENT if that variable belongs to another setting
 */
export function pluginPriority(name: string, own: number, environment: NodeJS.ProcessEnv = process.env): number {
  const variable = `PSP_${name.toUpperCase()}`;
  if (Object.values(SETTINGS).some((setting) => setting.variable === variable)) {
    throw new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', `plugin ${name}: ${variable} is another setting's variable`);
  }
  const { read, takes } = priority(name, variable, own);
  const entry = environment[variable];
  if (entry === undefined) return own;
  const value = read(entry);
  if (value === undefined) throw new IsthmusError('ERR_ISTHMUS_CONFIG', `${variable}: '${entry}' is not ${takes}`);
  return value;
}

/** Whether neither an option nor the environment sets it. */
export function isUnset(
  name: SettingName,
  options: ConfigOptions,
  environment: NodeJS.ProcessEnv = process.env,
): boolean {
  return settle(name, options, environment).origin === 'default';
}

/** @throws ERR_ISTHMUS_CONFIG */
export function configure(options: ConfigOptions = {}, environment: NodeJS.ProcessEnv = process.env): Config {
  return Object.fromEntries(explain(options, environment).map(({ name, value }) => [name, value])) as unknown as Config;
}
