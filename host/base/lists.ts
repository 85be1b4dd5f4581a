/** What arrays lack. */

/** Take an item out of a list. @returns whether it was there */
export function removeFrom<T>(list: T[], item: T): boolean {
  const place = list.indexOf(item);
  if (place >= 0) list.splice(place, 1);
  return place >= 0;
}
